/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The rules of targets: which of their connections shall be accelerated (sockaccel/core/rules.py). */

static inline int fits(const struct rule *rule, const struct flow *flow, u32 uid)
{
	if (rule->kind == RULE_PORT)
		return flow->remote_port >= rule->first && flow->remote_port <= rule->last;
	if (rule->kind == RULE_USER)
		return uid >= rule->first && uid <= rule->last;
	return (flow->remote[0] & rule->mask[0]) == rule->address[0] &&
	       (flow->remote[1] & rule->mask[1]) == rule->address[1] &&
	       (flow->remote[2] & rule->mask[2]) == rule->address[2] &&
	       (flow->remote[3] & rule->mask[3]) == rule->address[3];
}

/*
 * Whether the rules of a slot's target leave a connection to TCP: an excluding rule fits it, or it fits none of the including rules
 * of some kind. flow is that of the connecting end, uid the owner of its socket.
 */
static inline int is_excluded(u32 slot, const struct flow *flow, u32 uid)
{
	u32 asked = 0, answered = 0, bit;
	struct rules *rules;

	rules = sa_rules.lookup(&slot);
	if (!rules)
		return 0;
#pragma clang loop unroll(disable)
	for (int index = 0; index < MAX_RULES; index++) {
		const struct rule *rule = &rules->rule[index];
		int fit;

		if (rule->kind == RULE_END)
			break;
		fit = fits(rule, flow, uid);
		if (rule->exclude && fit)
			return 1;
		if (rule->exclude)
			continue;
		/* Read again: on each path to here the verifier knows what it was, and would follow every set of kinds. */
		bit = 1U << (*(volatile u32 *)&rule->kind & 31);
		asked |= bit;
		answered |= fit ? bit : 0;
	}
	return asked != answered;
}
