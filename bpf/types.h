/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Map contents: shared between the programs and, by size and order of members, with the daemon. */
#ifndef SOCKACCEL_TYPES_H
#define SOCKACCEL_TYPES_H

#include "counters.h"

/*
 * One direction of a connection as one of its ends sees it. Addresses are in network order, IPv4 as
 * ::ffff:a.b.c.d whatever the socket's family, so that an IPv4 client of a [::] listener meets its peer; ports
 * are in host order.
 */
struct flow {
	__u64 netns;
	__u32 local[4];
	__u32 remote[4];
	__u16 local_port;
	__u16 remote_port;
	__u32 pad;
};

struct listener_key {
	__u64 netns;
	__u32 address[4];
	__u32 port;
	__u32 pad;
};

/* sock is only ever read through probes, and only believed if what is read still listens on the same port. */
struct listener {
	__u64 sock;
	__u32 pid;
	__u32 mptcp;
	char comm[16];
};

enum target_flags {
	TARGET_ON = 1,
	TARGET_BLOCKING_READERS = 2,
};

/* A slot is used again after its target is gone; the generation keeps old connections out of the new target. */
struct target {
	__u32 generation;
	__u32 flags;
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

enum connection_state {
	CONNECTING,
	CANDIDATE,
	JOINED,
	LEFT,
};

enum event_kind {
	EVENT_JOINED,
	EVENT_REFUSED,
	EVENT_FALLBACK,
	EVENT_CLOSED,
	EVENT_EVICTED,
	EVENT_SWEEP_WANTED,
	EVENT_CONNECTION,
};

/* A line of the ring buffer, of a listing, and of what the walk that evicts prints. */
struct event {
	struct flow flow;
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
	char comm[16];
};

struct counters {
	__u64 value[COUNTERS_COUNT];
};

struct settings {
	__u32 events_per_second;
	__u32 walk;
	__u64 join_after_ns;
	/* Written by a walk that judges: when the next candidate is due, 0 if none is; how many members should leave. */
	__u64 next_due_ns;
	__u64 leaving;
	/* Written by a walk that lists: how many lines of sa_listing are filled. */
	__u32 listed;
	__u32 pad;
};

/* For candidates a sweep can wait until they are due; for members that should leave it cannot. */
enum urgency {
	SWEEP_LATER = 1,
	SWEEP_NOW,
};

enum walk {
	WALK_LIST,
	WALK_JUDGE,
	WALK_EVICT,
};

enum rule_kind {
	RULE_END,
	RULE_PORT,
	RULE_ADDRESS,
	RULE_USER,
};

/* first and last: of ports or uids; address and mask as in struct flow. */
struct rule {
	__u32 kind;
	__u32 exclude;
	__u32 first;
	__u32 last;
	__u32 address[4];
	__u32 mask[4];
};

struct rules {
	struct rule rule[MAX_RULES];
};

struct event_window {
	__u64 second;
	__u64 count;
};

_Static_assert(sizeof(struct flow) == SIZEOF_FLOW, "struct flow differs from the daemon's");
_Static_assert(sizeof(struct target) == SIZEOF_TARGET, "struct target differs from the daemon's");
_Static_assert(sizeof(struct event) == SIZEOF_EVENT, "struct event differs from the daemon's");
_Static_assert(sizeof(struct rule) == SIZEOF_RULE, "struct rule differs from the daemon's");
_Static_assert(sizeof(struct settings) == SIZEOF_SETTINGS, "struct settings differs from the daemon's");

#endif
