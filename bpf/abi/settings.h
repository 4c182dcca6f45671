/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SOCKACCEL_ABI_SETTINGS_H
#define SOCKACCEL_ABI_SETTINGS_H

/* What a walk does with each end that it meets. */
enum walk {
	WALK_LIST,
	WALK_JUDGE,
	WALK_EVICT,
};

/*
 * How soon a sweep is wanted: for candidates it can wait until they are old enough, for members that must leave
 * not.
 */
enum urgency {
	SWEEP_NONE,
	SWEEP_LATER,
	SWEEP_NOW,
};

/* The daemon's wishes, and what a walk answers: next_due_ns, leaving, found, found_left, listed,
 * blocking, unknown_owners, unseen_clients, found_clients and broken. */
struct settings {
	__u32 events_per_second;
	__u32 walk;
	/* When the next candidate must be judged; CLOCK_MONOTONIC, 0 if there is none. */
	__u64 next_due_ns;
	/* How many members must leave. */
	__u64 leaving;
	/* How many ends the walk has met, and how many of them are LEFT. */
	__u64 found;
	__u64 found_left;
	/*
	 * How many the last walk that judged had met, and the counts of struct kept when it began. The kernel tells
	 * nobody when it frees an end with its socket, so only a walk knows how many there are.
	 */
	__u64 last_found;
	__u64 last_found_left;
	__u64 counted;
	__u64 counted_left;
	/* How many entries of sa_listing are filled. */
	__u32 listed;
	/* How many ends the walk may meet before it interrupts itself. */
	__u32 rest_of_part;
	/* The number of the last search for sockets. */
	__u32 search;
	/* How many candidates wait to be seen reading with MSG_DONTWAIT. */
	__u32 blocking;
	/* Whether what a program was seen to do keeps out the next connections of its executable. */
	__u32 remembers;
	/* How many candidates wait for a search for sockets to find whose they are. */
	__u32 unknown_owners;
	/* The id of the cgroup to which sockaccel_join is attached: of sockets outside it no program sees the end. */
	__u64 root;
	/* How many accepting ends wait for a search to find the client that their target did not see. */
	__u32 unseen_clients;
	/* How many of those the last search has found. */
	__u32 found_clients;
	/* How many members have missed redirected bytes, which no walk has told before. */
	__u32 broken;
	__u32 pad;
};

#endif
