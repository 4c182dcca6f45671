/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every map. This file and what it includes decide how the maps look, and so whether a newer version may take them
 * over (layout_text() in sockaccel/kernel/sources.py).
 */
#include "lib/types.h"

/*
 * The members: every joined end, by its own key. BCC's BPF_SOCKHASH has no insert(), because it does not know
 * that the kernel lets an iterator call it.
 */
struct members_table {
	struct pair_key key;
	u32 leaf;
	int (*insert)(struct pair_key *, void *);
	int (*delete)(struct pair_key *);
	int (*msg_redirect_hash)(void *, void *, u64);
	u32 max_entries;
};
__attribute__((section("maps/sockhash"))) struct members_table sa_members = {.max_entries = MAX_MEMBERS};
BPF_ANNOTATE_KV_PAIR(sa_members, struct pair_key, u32);

/* By its own key, what an end leaves for its peer. It goes when the end is closed, left to TCP or evicted. */
BPF_F_TABLE("hash", struct pair_key, struct peer_entry, sa_peers, MAX_MEMBERS, BPF_F_NO_PREALLOC);
BPF_SK_STORAGE(sa_ends, struct end);
/*
 * Why connecting ends stay with TCP that left no entry for their peers, by their own keys: so that the accepting end
 * does not look for its client. It takes the note away. One whose accepting end is on another host or in no target is
 * pushed out.
 */
BPF_TABLE("lru_hash", struct pair_key, u32, sa_refusals, MAX_REFUSALS);
/* How many ends were kept, of which a walk knows how many are left (struct settings). */
BPF_ARRAY(sa_kept, struct kept, 1);

/* The listeners that no target has. Anybody can open many, which push the idle ones out. */
BPF_TABLE("lru_hash", struct listener_key, struct listener, sa_listeners, MAX_LISTENERS);
/*
 * Those that targets have, or that serve targets. An entry goes when its socket is closed. If sockaccel_join does
 * not see that, because the socket is older than sockaccel, the next search for sockets removes it.
 */
BPF_F_TABLE("hash", struct listener_key, struct listener, sa_own_listeners, MAX_TARGET_LISTENERS,
	    BPF_F_NO_PREALLOC);

/* The slot of the target that a listener serves. Somebody else opened it, as systemd does for its services. */
BPF_HASH(sa_served, struct listener_key, u32, MAX_SERVED);

/* What is known of programs, by their executables: watchers and the daemon write it. */
BPF_F_TABLE("hash", struct executable, struct program, sa_programs, MAX_PROGRAMS, BPF_F_NO_PREALLOC);
/* A program of which nothing is known: it is too large for the stack. */
BPF_ARRAY(sa_unknown_program, struct program, 1);
/* Those of the list (programs.conf) that apply on this kernel: enum knowledge_flag, by the name of the process. */
BPF_HASH(sa_names, struct program_name, u32, MAX_PROGRAM_NAMES);

/* The slot of the target that has a cgroup, by the cgroup's id. Slot 0 belongs to no target. */
BPF_HASH(sa_cgroups, u64, u32, MAX_CGROUPS);
BPF_ARRAY(sa_targets, struct target, MAX_TARGETS);
BPF_PERCPU_ARRAY(sa_counters, struct counters, MAX_TARGETS);

/* The connections that an audit looks at, by the keys of the ends that it has not found yet; empty otherwise. */
BPF_F_TABLE("hash", struct pair_key, u32, sa_audited, MAX_MISSED, BPF_F_NO_PREALLOC);
/* Whether an audit wants to know what processes do with sockets of TCP, covered or not. */
BPF_ARRAY(sa_auditing, u32, 1);
/* What watchers have seen of them meanwhile (enum knowledge_flag), by their ids; those that did it last. */
BPF_TABLE("lru_hash", u32, u32, sa_calls, MAX_PROGRAMS);
/*
 * What the present search for sockets has found of connections that are older than their targets, by the keys of
 * their ends, as if they all had been accepted; empty otherwise.
 */
BPF_F_TABLE("hash", struct pair_key, struct found, sa_found, MAX_FOUND, BPF_F_NO_PREALLOC);

BPF_ARRAY(sa_settings, struct settings, 1);
/* What the walk over open files is for. */
BPF_ARRAY(sa_audit, struct audit, 1);
/* The rules of a target, by its slot; none if it has none. The daemon replaces an entry as a whole. */
BPF_F_TABLE("hash", u32, struct rules, sa_rules, MAX_TARGETS, BPF_F_NO_PREALLOC);
/*
 * A part of a listing. What an iterator prints comes 32 KB at a time, and the kernel then looks for its place
 * again, so the walk writes here and the daemon maps it.
 */
BPF_F_TABLE("array", u32, struct event, sa_listing, MAX_LISTED, BPF_F_MMAPABLE);
BPF_ARRAY(sa_window, struct event_window, 1);
/* How soon a sweep is wanted (enum urgency). The sweep sets it to SWEEP_NONE when it begins. */
BPF_ARRAY(sa_sweep_wanted, u32, 1);
BPF_RINGBUF_OUTPUT(sa_events, EVENT_PAGES);

/*
 * The verdict program, called by sockaccel_stub. Sockets that joined under an older version run a newer one by
 * this.
 */
BPF_PROG_ARRAY(sa_verdict, 1);

/* Nobody reads it. A write to a map of maps returns when every program that was running has ended
 * (maybe_wait_bpf_programs() in kernel/bpf/syscall.c): this is the daemon's grace period. */
BPF_ARRAY_OF_MAPS(sa_grace, "sa_window", 1);

/* For the daemon's start-up probes (probe.c): two sockets, and whether to redirect between them. */
BPF_SOCKHASH(sa_probe_pair, u64, 2);
BPF_ARRAY(sa_probe_mode, u32, 1);
