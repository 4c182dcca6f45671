/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every map of the programs that lead connections to proxies. They share none with the others, so a host without
 * an interception has neither these maps nor these programs.
 */
#include "abi/flow.h"
#include "abi/lead.h"
#include "abi/limits.h"
#include "abi/rules.h"

struct lead_counts {
	__u64 value[LEAD_COUNTERS];
};

BPF_ARRAY(sa_leads, struct interception, MAX_INTERCEPTIONS);
/* What each slot's target leaves alone: rules that exclude. */
BPF_ARRAY(sa_lead_rules, struct rules, MAX_INTERCEPTIONS);
BPF_PERCPU_ARRAY(sa_lead_counts, struct lead_counts, MAX_INTERCEPTIONS);
/* Whether the proxy of a slot was not there when it was last needed. */
BPF_ARRAY(sa_lead_down, u32, MAX_INTERCEPTIONS);
/* The owner of each cgroup by name, and the ids of those above such cgroups, so that others' names are not read. */
BPF_HASH(sa_places, struct place, u32, MAX_CGROUPS);
BPF_HASH(sa_parents, u64, u32, MAX_CGROUPS);
/*
 * The owner of each cgroup that exists, by id. A proxy is entered when its getsockopt() is answered, so that it gets
 * no connection whose destination it cannot ask for.
 */
BPF_HASH(sa_owners, u64, u32, MAX_CGROUPS);
BPF_SK_STORAGE(sa_origins, struct origin);
/* By the flow that the accepting end will have: what a led connection is on its way to tell its proxy. */
BPF_F_TABLE("hash", struct flow, struct origin, sa_led, MAX_LED_WAITING, BPF_F_NO_PREALLOC);
/* How many entries sa_led has, and whether the daemon waits until there are none. */
BPF_ARRAY(sa_led_count, u64, 1);
BPF_ARRAY(sa_lead_drains, u32, 1);
BPF_RINGBUF_OUTPUT(sa_lead_events, 2);
/* As sa_grace in maps.c. */
BPF_ARRAY_OF_MAPS(sa_lead_grace, "sa_lead_down", 1);
