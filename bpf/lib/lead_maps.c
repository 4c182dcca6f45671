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
/* Which ports of the proxy of a slot nobody listened at when they were last needed: bits. */
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

/* The number of each network namespace in which connections to targets are led, by its inode number. */
BPF_HASH(sa_networks, u32, u32, MAX_NETWORKS);
BPF_HASH(sa_inbound, struct inbound_key, struct inbound, MAX_INTERCEPTIONS *MAX_INBOUND);
BPF_HASH(sa_door_ports, struct door_port, u32, MAX_INTERCEPTIONS *MAX_INBOUND);
/* The slot of the target that has an entrance. */
BPF_HASH(sa_entrances, struct entrance, u32, MAX_ENTRANCES);

/* As members_table in maps.c, for the same reason. The kernel takes a listener out when it is closed. */
struct doors_table {
	struct door key;
	u64 leaf;
	void *(*lookup)(struct door *);
	int (*insert)(struct door *, void *);
	int (*sock_hash_update)(void *, void *, u64);
	u32 max_entries;
};
__attribute__((section("maps/sockhash"))) struct doors_table sa_doors = {.max_entries = MAX_DOORS};
BPF_ANNOTATE_KV_PAIR(sa_doors, struct door, u64);
/* The cookie of the listener that was put last behind each door, so that none has two. */
BPF_HASH(sa_door_cookies, struct door, u64, MAX_DOORS);
/*
 * By the flow that the accepting end will have, with the number of the network in the place of the cookie: connections
 * of a proxy, or of a target to itself, which pass the entrance. The value is the cookie of the connecting end.
 */
BPF_F_TABLE("hash", struct flow, u64, sa_past, MAX_PAST, BPF_F_NO_PREALLOC);
/* How many entries sa_past has. */
BPF_ARRAY(sa_past_count, u64, 1);
BPF_ARRAY(sa_lead_walk, u32, 1);
