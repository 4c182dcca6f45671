/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SOCKACCEL_ABI_PROGRAM_H
#define SOCKACCEL_ABI_PROGRAM_H

#include "limits.h"

/* What is known of a program. */
enum knowledge_flag {
	/* It reads by splice(), which does not find redirected bytes. */
	KNOWN_SPLICES = 1,
	/* It asks ioctl(FIONREAD), where this kernel answers wrongly for a member. */
	KNOWN_ASKS_FIONREAD = 2,
	/* It has called recv() in blocking mode, without MSG_DONTWAIT. */
	KNOWN_BLOCKS = 4,
	/* It reads with MSG_TRUNC, which discards what TCP carried and not what was redirected. */
	KNOWN_DISCARDS = 8,
	/* It waits in recv() with MSG_WAITALL, which returns too early for a member. */
	KNOWN_WAITS_FOR_ALL = 16,
	/* It opens listeners for other programs, which accept the connections. */
	KNOWN_LISTENS = 32,
};

/* A program's file as the kernel knows it: inode number, and s_dev of its file system (20 bits are the minor). */
struct executable {
	__u64 inode;
	__u32 device;
	__u32 pad;
};

/* Names of directories and mounts on the way to an executable that are read, and bytes of each. */
#define PATH_PARTS 16
#define PATH_PART 64
/* Their product. */
#define PATH_BYTES 1024

/*
 * What a watcher has seen a program do, or the daemon remembers. path: the names on the way to its file, the last
 * one first, PATH_PART bytes each, some empty; all are where the daemon wrote it. since_ns: CLOCK_MONOTONIC.
 */
struct program {
	__u64 since_ns;
	__u32 knowledge;
	__u32 pid;
	char path[PATH_BYTES];
};

/* The name of a process, as /proc/PID/comm has it. */
struct program_name {
	char name[16];
};

#endif
