/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For the daemon's start-up probes: its own pair of sockets under a map of its own, and one bare redirect. */

int sockaccel_probe(struct sk_msg_md *msg)
{
	u64 receiver = 1;
	int zero = 0;
	u32 *redirect = sa_probe_mode.lookup(&zero);

	if (redirect && *redirect)
		sa_probe_pair.msg_redirect_hash(msg, &receiver, BPF_F_INGRESS);
	return SK_PASS;
}
