/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SOCKACCEL_ABI_EVENT_H
#define SOCKACCEL_ABI_EVENT_H

#include "flow.h"

/* How far an end has come. */
enum end_state {
	CONNECTING,
	CANDIDATE,
	JOINED,
	LEFT,
};

/*
 * What an event tells. EVENT_CONNECTION is a line of a listing, or an end that cannot be evicted yet. EVENT_PROGRAM
 * is about no end: there is something new in sa_programs.
 */
enum event_kind {
	EVENT_JOINED,
	EVENT_REFUSED,
	EVENT_FALLBACK,
	EVENT_CLOSED,
	EVENT_EVICTED,
	EVENT_SWEEP_WANTED,
	EVENT_CONNECTION,
	EVENT_BROKEN,
	EVENT_PROGRAM,
};

/* ADOPTED: the connection is older than the enabling of its target. AWAITS_HEARTBEAT: see HEARTBEAT in counters.h. */
enum event_flag {
	EVENT_ADOPTED = 1,
	EVENT_AWAITS_HEARTBEAT = 2,
};

/*
 * What is told about one end, in the ring buffer, in a listing, and by the walk that evicts. Times are
 * CLOCK_MONOTONIC; bytes and messages are those that this end sent; reason and marked are counters (counters.h), 0
 * for none. An end that is not established yet has the key 0, 0.
 */
struct event {
	struct flow flow;
	struct pair_key key;
	__u64 time_ns;
	__u64 cookie;
	__u64 peer_cookie;
	__u64 cgroup;
	__u64 redirected_bytes;
	__u64 redirected_messages;
	__u64 tcp_bytes;
	__u64 tcp_messages;
	__u32 kind;
	__u32 reason;
	__u32 slot;
	__u32 generation;
	__u32 active;
	__u32 pid;
	__u32 marked;
	__u32 state;
	__u32 flags;
	__u32 pad;
	char program[16];
};

#endif
