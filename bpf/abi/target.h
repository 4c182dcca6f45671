/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SOCKACCEL_ABI_TARGET_H
#define SOCKACCEL_ABI_TARGET_H

enum target_flag {
	TARGET_ON = 1,
	TARGET_BLOCKING_READERS = 2,
	/* A watcher notes up to where recv() has read (bpf/watch.c). */
	TARGET_RECV_WATCHED = 4,
	/* Its ends may meet although they are in different network namespaces. */
	TARGET_OTHER_NAMESPACES = 8,
	/* Connections that are older than its enabling are adopted. */
	TARGET_ADOPTS = 16,
};

/*
 * What a slot holds. A slot is used again after its target is gone; the generation tells the connections of the
 * earlier target from those of the present one.
 */
struct target {
	__u32 generation;
	__u32 flags;
	/* How old a connection must be to join. */
	__u64 join_after_ns;
	/* For how long no message of a connection need go by TCP, where its ends are apart. In ns. */
	__u64 heartbeat_ns;
	/* Another number after each change of what its policy lets in: what an earlier one left to TCP is looked at anew. */
	__u32 policy;
	__u32 pad;
};

#endif
