/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ways to read a socket's fields, and a copy of those that a verdict reads of the reader's socket: without
 * bpf_rdonly_cast() each read is a call that takes some 20 ns, and many fields lie beside each other. The loader
 * says where (sockaccel/kernel/view.py).
 */
#ifndef SOCKACCEL_VIEW_H
#define SOCKACCEL_VIEW_H

#include "lib/kernel.h"

/*
 * DIRECT: the sender's own socket in its verdict, and what it points to: the verifier lets a program read them.
 * PROBED: a socket that is a number to us. COPIED: a struct view.
 */
enum access { DIRECT, PROBED, COPIED };

struct view {
	__u64 words[VIEW_SIZE / 8];
};

/* Reads a field that view.py lists, where access may be any of the three. */
#define FIELD(type, access, sock, field)                                                                          \
	((access) == COPIED ? *(type *)((void *)(sock) + VIEW_##field) : AT(type, access, sock, OFFSET_##field))
#define FIELD_BITS(access, sock, field) ((FIELD(__u8, access, sock, field) >> SHIFT_##field) & MASK_##field)
/* Reads at an offset, DIRECT or PROBED. */
#define AT(type, access, base, offset)                                                                            \
	((access) == DIRECT ? *(volatile type *)((void *)(base) + (offset)) : READ_AS(type, base, offset))

#define COPY(block)                                                                                               \
	probe_read((void *)view + VIEW_TO_##block, VIEW_BYTES_##block, (const void *)(sock + VIEW_FROM_##block))

static inline void look_at(__u64 sock, struct view *view)
{
	COPY(0);
#ifdef VIEW_TO_1
	COPY(1);
#endif
#ifdef VIEW_TO_2
	COPY(2);
#endif
#ifdef VIEW_TO_3
	COPY(3);
#endif
#ifdef VIEW_TO_4
	COPY(4);
#endif
#ifdef VIEW_TO_5
	COPY(5);
#endif
#ifdef VIEW_TO_6
	COPY(6);
#endif
#ifdef VIEW_TO_7
	COPY(7);
#endif
#ifdef VIEW_TO_8
	COPY(8);
#endif
#ifdef VIEW_TO_9
	COPY(9);
#endif
#ifdef VIEW_TO_10
	COPY(10);
#endif
#ifdef VIEW_TO_11
	COPY(11);
#endif
#ifdef VIEW_TO_12
#error "copy more blocks"
#endif
}

#undef COPY

#endif
