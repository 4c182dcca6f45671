/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SOCKACCEL_ABI_AUDIT_H
#define SOCKACCEL_ABI_AUDIT_H

#include "flow.h"

/*
 * What the walk over open files is for. The search for sockets remembers listeners and the ends of connections that
 * are older than their target, and further walks adopt those. An audit takes two: the first finds the sockets of a
 * cgroup, the second the other ends of their connections.
 */
enum look {
	LOOK_SEARCH,
	LOOK_ADOPT,
	LOOK_ADOPT_LAST,
	LOOK_ENDS,
	LOOK_PEERS,
};

/* The daemon's wishes for the walk. cgroup: the id of the one that is audited. */
struct audit {
	__u64 cgroup;
	__u32 look;
	__u32 pad;
};

enum open_flag {
	/* It listens. Of such a socket nothing but its flow is told. */
	OPEN_LISTENS = 1,
	/* The other end is on this host. */
	OPEN_LOCAL = 2,
	/* Its file has no O_NONBLOCK. */
	OPEN_BLOCKS = 4,
	/* It is a member. */
	OPEN_JOINED = 8,
	/* It has received urgent data (MSG_OOB). */
	OPEN_URGENT = 16,
};

/*
 * An open socket as an audit sees it. key: that of an accepting end; a connecting one has sent a byte less. sent, received: bytes since the connection was made, those that were redirected
 * counted where they were sent; segments are those with data. reason: why the end would stay with TCP (counters.h), 0
 * for none.
 */
struct open_socket {
	struct flow flow;
	struct pair_key key;
	__u64 cookie;
	__u64 sent;
	__u64 received;
	__u32 sent_segments;
	__u32 received_segments;
	__u32 pid;
	__u32 reason;
	__u32 flags;
	__u32 user;
	char program[16];
};

#endif
