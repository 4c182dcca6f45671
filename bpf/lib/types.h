/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What maps hold that only the programs read; bpf/abi has the rest. */
#ifndef SOCKACCEL_TYPES_H
#define SOCKACCEL_TYPES_H

#include "abi/counters.h"
#include "abi/event.h"
#include "abi/flow.h"
#include "abi/limits.h"
#include "abi/rules.h"
#include "abi/settings.h"
#include "abi/sizes.h"
#include "abi/target.h"

#define COUNTER_INDEX(name, kind, sentence) name,
enum counter { COUNTERS(COUNTER_INDEX) COUNTERS_COUNT };
#undef COUNTER_INDEX

/* sock is only ever read through probes, and only believed if what is read still listens on the same port. */
struct listener {
	__u64 sock;
	__u32 pid;
	__u32 mptcp;
	char comm[16];
};

/* How one end finds the other. sock is a hint: it is believed only while the cookie behind it matches. */
struct peer {
	__u64 sock;
	__u64 cookie;
	__u32 slot;
	__u32 generation;
	__u32 initial_sequence;
	/* The listener that was to answer brought the connection in, not the connecting end's own cgroup. */
	__u32 by_listener;
	__u32 joined;
	__u32 redirected;
	/* Since it must leave, until both ends have left and one of them comes back. */
	__u32 marked;
	/* Why the connection was left out, told by the end that found out first. */
	__u32 refused;
	/* With its mark: that it sends a stream of small messages. */
	__u32 small_messages;
};

/*
 * A message that goes by TCP costs a quarter to a half more in the map than outside. A connection of which so many
 * more went by TCP than were redirected leaves for a pause: the first is a second long, each one twice the last, up to
 * 64. Trying again costs as much as a tenth of a second in which nothing is sent, most of it until both ends are seen
 * in no call; a stream of small messages has nothing to gain from it, and begins with the fourth pause.
 */
#define PAUSE_MESSAGES 2048
#define REDIRECT_WEIGHT 8
#define FIRST_PAUSE_NS 1000000000ULL
#define PAUSE_DOUBLINGS 6
#define SMALL_DOUBLINGS 3

/*
 * What is kept with each socket of a covered connection (sk_storage). What a redirect needs comes first, in three cache
 * lines instead of five.
 */
struct connection {
	struct flow peer;
	__u64 peer_sock;
	__u64 peer_cookie;
	__u64 peer_file;
	__u64 file;
	__u64 memory_pressure;
	__u64 redirected_bytes;
	__u64 redirected_messages;
	__u32 slot;
	__u32 generation;
	__u32 state;
	__u32 in_map;
	__u32 marked;
	__u32 peer_joined;
	/* What had been written when the other end was found to have joined. */
	__u32 joined_sequence;
	/* Up to where tcp_bytes has counted; it stops at the FIN, which has a sequence number too. */
	__u32 counted_sequence;
	__u32 fin_sent;
	__u32 receive_maximum;
	__u32 sender_known;
	__u32 last_by_tcp;
	/* How many messages TCP carried since the reader was behind, less REDIRECT_WEIGHT for each redirected one. */
	__u32 behind;
	__u32 reason;
	__u64 tcp_bytes;
	__u64 tcp_messages;
	struct flow own;
	__u64 cookie;
	__u64 cgroup;
	/* When it was made, and when a candidate is looked at; CLOCK_MONOTONIC. */
	__u64 since_ns;
	__u64 due_ns;
	__u32 looked_at;
	__u32 pauses;
	__u32 active;
	__u32 by_listener;
	__u32 pid;
	/* Whether a stream of small messages made it pause, which TCP carries better anyhow. */
	__u32 small_messages;
	char comm[16];
};

struct counters {
	__u64 value[COUNTERS_COUNT];
};

struct event_window {
	__u64 second;
	__u64 count;
};

#endif
