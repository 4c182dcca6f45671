/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What maps hold for the programs alone. What the daemon reads too is in bpf/abi. */
#ifndef SOCKACCEL_TYPES_H
#define SOCKACCEL_TYPES_H

#include "abi/audit.h"
#include "abi/counters.h"
#include "abi/event.h"
#include "abi/flow.h"
#include "abi/kept.h"
#include "abi/limits.h"
#include "abi/listener.h"
#include "abi/program.h"
#include "abi/rules.h"
#include "abi/settings.h"
#include "abi/sizes.h"
#include "abi/target.h"

#define COUNTER_INDEX(name, kind, sentence) name,
enum counter { COUNTERS(COUNTER_INDEX) COUNTERS_COUNT };
#undef COUNTER_INDEX

/*
 * What can stand in the place of a reason, which is a counter. NO_REASON has the index of CONNECTIONS, which is no
 * reason. UNCOUNTED: left to TCP for something that no counter tells. NOT_YET: a candidate must be judged again
 * later. GONE: the end was closed meanwhile.
 */
enum no_counter {
	NO_REASON = 0,
	UNCOUNTED = COUNTERS_COUNT,
	NOT_YET,
	GONE,
};

struct counters {
	__u64 value[COUNTERS_COUNT];
};

/*
 * What one end leaves in sa_peers for its peer to find. The socket may be gone: it is believed only while it has
 * this cookie.
 *
 * The kernel may give an entry to another flow as soon as it is deleted, while a program still writes to it. So
 * all that is written later is a note() with the cookie of the entry's owner.
 */
struct peer_entry {
	__u64 sock;
	__u64 cookie;
	/* That of the other end, if it was established first; otherwise 0, and the other entry names this one. */
	__u64 peer_cookie;
	__u32 slot;
	__u32 generation;
	__u32 active;
	/* The connection is covered because of the listener that was to answer, not because of the connecting
	 * end. */
	__u32 by_listener;
	__u64 joined;
	__u64 redirected;
	/* Why the end must leave. It stays set until both ends have left and one of them comes back from a
	 * pause. */
	__u64 marked;
	/* Why the connection stays out. The end that finds out first writes it to the other one's entry. */
	__u64 refused;
	/* The end is marked and sends a stream of small messages. */
	__u64 small_messages;
	/* Where the struct end is. Believed if that has the cookie of the end. */
	__u64 end;
};

/* A value below 256 for the entry of the end with a cookie. 56 bits of it never come again. */
static inline __u64 note(__u64 cookie, __u32 value)
{
	return cookie << 8 | value;
}

/* The value of a note, 0 if it was meant for another end's entry. */
static inline __u32 noted(__u64 note, __u64 cookie)
{
	__u64 value = note ^ cookie << 8;

	return value < 256 ? value : 0;
}

/* In end.odd_sender. */
#define EVERYBODY (~0ULL)

/* In end.reads: so many calls show what a program does, and one without MSG_DONTWAIT that it does not. */
#define DONTWAIT_READS 3
#define READS_BLOCKED 0xff

/* In end.received, which is one word so that it is written in one go. */
#define RECEIVED (1ULL << 32)

/*
 * What is kept in the storage of each socket of a covered connection. The members that a redirect reads come first. With
 * the kernel's own 72 bytes in front (struct bpf_local_storage_elem) it fills 256: the first 120 end with a cache line.
 */
struct end {
	struct pair_key peer_key;
	/*
	 * Up to which of TCP's sequence numbers recv() has read since this end joined, with RECEIVED; 0 before the
	 * first read. Its watcher writes it (watch.c), the verdict of the peer reads it.
	 */
	__u64 received;
	__u64 peer_sock;
	__u64 peer_cookie;
	/* Where the peer's struct end is, once peer_joined is set. */
	__u64 peer_end;
	__u64 peer_file;
	__u64 file;
	/* The task whose send() has flags that a redirect could not serve, EVERYBODY for several tasks, or 0. */
	__u64 odd_sender;
	__u64 redirected_bytes;
	__u64 redirected_messages;
	__u32 generation;
	/* write_seq when this end found that its peer had joined. */
	__u32 joined_sequence;
	/* write_seq up to which tcp_bytes has counted. It stops at the FIN, which has a sequence number too. */
	__u32 counted_sequence;
	__u32 receive_maximum;
	/* When a message went by TCP last, in units of 2^20 ns of CLOCK_MONOTONIC. */
	__u32 tcp_time;
	/* Messages that TCP carried because the reader was behind, less REDIRECT_WEIGHT for each redirected
	 * one. */
	__u16 behind;
	__u8 slot;
	__u8 state;
	/* It is a member, also if it is about to leave. */
	__u8 in_map;
	__u8 marked;
	__u8 peer_joined;
	__u8 last_by_tcp;
	/* That message was a heartbeat. */
	__u8 beat;
	/* Something that forgets connections, or follows rules, may lie between: its target's heartbeat holds. */
	__u8 apart;
	/* Its peer is in another network namespace. */
	__u8 elsewhere;
	__u8 is_ipv4;
	/* This end has called splice(), and has done so while it held redirected bytes (watch.c). */
	__u8 spliced;
	__u8 spliced_unread;
	__u8 fin_sent;
	__u8 sender_known;
	/* How many of its calls of recv() had MSG_DONTWAIT, up to DONTWAIT_READS; or READS_BLOCKED. */
	__u8 reads;
	__u8 reason;
	/* Why it must stay with TCP, by what a watcher has seen: a counter. */
	__u8 seen;
	/* How many more messages of this end may wait for a reader that is behind (verdict.c). */
	__u8 patience;
	__u64 tcp_bytes;
	__u64 tcp_messages;
	__u64 cookie;
	/* When the end was made, in units of 2^SINCE_SHIFT ns of CLOCK_MONOTONIC. */
	__u32 since;
	/* When a candidate must be judged, in units of 2^DUE_SHIFT ns; it is never far away. */
	__u32 due;
	__u32 pid;
	/* How often a candidate was judged and must wait, or a marked end could not leave. */
	__u8 looks;
	/* How often a candidate waited for its socket's lock. */
	__u8 waits;
	__u8 active;
	__u8 by_listener;
	/* The connection is older than the enabling of its target, or than its policy. */
	__u8 adopted;
	/* Its last pause was for a stream of small messages. */
	__u8 small_messages;
	/* Nobody knows yet whose it is: its listener was opened by a program that does so for others, or it was met after
	 * its connect(). */
	__u8 owner_unknown;
	/* The last bits of the policy of its target (struct target) that let it in or left it out. */
	__u8 policy;
	/* Why an earlier policy left it to TCP. */
	__u8 left_before;
	/* A walk has told the daemon of spliced_unread. */
	__u8 told_broken;
	/* Without patience: how many messages do not wait before one tries again. */
	__u8 rest;
	/* No more than MANY_PAUSES are counted. */
	__u8 pauses;
	char comm[16];
};

_Static_assert(sizeof(struct end) == 256 - 72, "an end fills 256 bytes");
_Static_assert(GONE < 256 && MAX_TARGETS <= 256, "reasons and slots have one byte in struct end");

/* About 17 ms: a connection can be two years old. */
#define SINCE_SHIFT 24
/* About 1 ms. */
#define DUE_SHIFT 20
#define MANY_PAUSES 255

/*
 * What a search for sockets notes of an end of a connection that is older than its target. slot: of the target that
 * has this end, 0 if the other end alone belongs to one. reason: why it can never join. The socket is believed while
 * it has this cookie.
 */
struct found {
	__u64 sock;
	__u64 cookie;
	__u32 slot;
	__u32 reason;
};

struct event_window {
	__u64 second;
	__u64 count;
};

#endif
