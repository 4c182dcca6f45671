/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every map. This file and what it includes decide how the maps look, and so which maps a newer version may take over
 * (layout_text() in sockaccel/kernel/sources.py).
 */
#include "lib/types.h"

/*
 * Every joined end, under its own flow. Not by BCC's BPF_SOCKHASH, which does not know that the kernel lets an
 * iterator insert.
 */
struct members_table {
	struct flow key;
	u32 leaf;
	int (*insert)(struct flow *, void *);
	int (*delete)(struct flow *);
	int (*msg_redirect_hash)(void *, void *, u64);
	u32 max_entries;
};
__attribute__((section("maps/sockhash"))) struct members_table sa_members = {.max_entries = MAX_MEMBERS};
BPF_ANNOTATE_KV_PAIR(sa_members, struct flow, u32);
/* How an end, candidate or joined, is found by the other one; gone when the end is closed, left out or evicted. */
BPF_F_TABLE("hash", struct flow, struct peer, sa_peers, MAX_MEMBERS, BPF_F_NO_PREALLOC);
BPF_SK_STORAGE(sa_connections, struct connection);
BPF_TABLE("lru_hash", struct listener_key, struct listener, sa_listeners, MAX_LISTENERS);

/* Listeners that belong to a target although somebody else made their sockets, as systemd does for its services. */
BPF_HASH(sa_served, struct listener_key, u32, MAX_SERVED);

/* cgroup id -> slot in sa_targets and sa_counters. Slot 0 belongs to no target. */
BPF_HASH(sa_cgroups, u64, u32, MAX_CGROUPS);
BPF_ARRAY(sa_targets, struct target, MAX_TARGETS);
BPF_PERCPU_ARRAY(sa_counters, struct counters, MAX_TARGETS);

/* The connections that a walk over sockets has counted; empty between two walks. */
BPF_F_TABLE("hash", struct flow, u32, sa_missed, MAX_MISSED, BPF_F_NO_PREALLOC);

BPF_ARRAY(sa_settings, struct settings, 1);
/* Written in one go, but not in one moment: a connection may meet half of the new rules, which costs it speed. */
BPF_ARRAY(sa_rules, struct rules, 1);
/* A part of a listing. What a walk prints comes 32 KB at a time, and after each the kernel looks for its place anew. */
BPF_F_TABLE("array", u32, struct event, sa_listing, MAX_LISTED, BPF_F_MMAPABLE);
BPF_ARRAY(sa_window, struct event_window, 1);
/* How urgently a sweep is wanted (enum urgency), until it begins. */
BPF_ARRAY(sa_sweep_wanted, u32, 1);
BPF_RINGBUF_OUTPUT(sa_events, EVENT_PAGES);

/* The verdict lives behind a tail call, so that a newer one reaches sockets that joined under the old. */
BPF_PROG_ARRAY(sa_verdict, 1);

/* Never read. Writing to a map of maps returns when every program that was running has ended
 * (maybe_wait_bpf_programs() in kernel/bpf/syscall.c): the daemon's grace period. */
BPF_ARRAY_OF_MAPS(sa_grace, "sa_window", 1);

/* For the daemon's start-up probes (probe.c): a pair of sockets, and whether to redirect between them. */
BPF_SOCKHASH(sa_probe_pair, u64, 2);
BPF_ARRAY(sa_probe_mode, u32, 1);
