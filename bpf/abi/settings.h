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

/* The daemon's wishes, and what a walk answers: next_due_ns, leaving and listed. */
struct settings {
	__u32 events_per_second;
	__u32 walk;
	__u64 join_after_ns;
	/* When the next candidate must be judged; CLOCK_MONOTONIC, 0 if there is none. */
	__u64 next_due_ns;
	/* How many members must leave. */
	__u64 leaving;
	/* How many entries of sa_listing are filled. */
	__u32 listed;
	__u32 pad;
};

#endif
