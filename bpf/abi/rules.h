/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SOCKACCEL_ABI_RULES_H
#define SOCKACCEL_ABI_RULES_H

#include "limits.h"

/* What a rule compares. RULE_END ends the list. */
enum rule_kind {
	RULE_END,
	RULE_PORT,
	RULE_ADDRESS,
	RULE_USER,
};

/* One rule of a target. first and last are ports or user ids; address and mask are as in struct flow. */
struct rule {
	__u32 kind;
	__u32 exclude;
	__u32 first;
	__u32 last;
	__u32 address[4];
	__u32 mask[4];
};

/* All rules of a target. */
struct rules {
	struct rule rule[MAX_RULES];
};

#endif
