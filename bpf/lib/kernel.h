/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads the running kernel's structures at offsets that the loader took from the kernel's BTF
 * (OFFSET_structure_member; SHIFT_ and MASK_ for bit fields). The pointer may be stale: a read through it yields
 * zero or whatever is there now, and never faults. Before a program acts on what it read from a socket, it
 * compares the socket's cookie, which the kernel never gives out twice.
 */
#ifndef SOCKACCEL_KERNEL_H
#define SOCKACCEL_KERNEL_H

/*
 * Declared by number: BCC replaces its own bpf_probe_read_kernel() by another helper where it cannot read
 * kallsyms.
 */
static long (*probe_read)(void *dst, __u32 size, const void *src) = (void *)BPF_FUNC_probe_read_kernel;
/* CLOCK_MONOTONIC as of the last tick of the kernel: reading it takes a few ns. */
static __u64 (*coarse_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262
#define SOCK_STREAM 1
#define E2BIG 7
#define ENOMEM 12
#define EBUSY 16
#define EEXIST 17
#define EINVAL 22

/* net/tcp_states.h */
#define TCP_ESTABLISHED 1
#define TCP_SYN_RECV 3
#define TCP_FIN_WAIT1 4
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LAST_ACK 9
#define TCP_LISTEN 10

/* include/net/flow.h */
#define LOOPBACK_INDEX 1

/* include/linux/tcp.h */
#define TCP_NAGLE_OFF 1
#define TCP_NAGLE_CORK 2

/* include/net/sock.h */
#define SOCK_RCVBUF_LOCK 2

#define SK_USER_DATA_PSOCK 4ULL
#define SK_USER_DATA_MASK 7ULL

#define MEMORY_PAGE 4096
/* Pages that other CPUs may have charged before they use them (MEMCG_CHARGE_BATCH, used in mm/memcontrol.c). */
#define MEMORY_SLACK_PAGES 64
#define MEMORY_LEVELS 16

/* The compiler moves no read or write across this. */
#define barrier() asm volatile("" ::: "memory")

/*
 * Reads one field. bpf_probe_read_kernel() is a call that takes some 20 ns. A kernel with bpf_rdonly_cast() lets a
 * program treat a number as a pointer to one of the kernel's structures: the read is then one instruction, and
 * yields zero where a probe would fail (PROBE_MEM in kernel/bpf/verifier.c). Any structure that begins with 64
 * bits will do, such as timespec64. The loader turns calls of rdonly_cast() into calls of the kernel function.
 */
#ifdef KFUNC_rdonly_cast
static void *(*rdonly_cast)(__u64 number, __u32 type) = (void *)KFUNC_rdonly_cast;
#define READ_AS(type, base, offset) (*(volatile type *)rdonly_cast((__u64)(base) + (offset), TYPE_timespec64))
/* The socket of a program's own context, which must be TCP's. */
#define TCP_SOCK(sk) rdonly_cast((__u64)(sk), TYPE_tcp_sock)
#else
#define READ_AS(type, base, offset)                                                                               \
	({                                                                                                        \
		type value = 0;                                                                                   \
		probe_read(&value, sizeof(value), (const void *)((unsigned long)(base) + (offset)));              \
		value;                                                                                            \
	})
#define TCP_SOCK(sk) ((void *)bpf_skc_to_tcp_sock(sk))
#endif
#define READ_U8(base, offset) READ_AS(__u8, base, offset)
#define READ_U32(base, offset) READ_AS(__u32, base, offset)
#define READ_U64(base, offset) READ_AS(__u64, base, offset)
#define READ_BITS(base, field) ((READ_U8(base, OFFSET_##field) >> SHIFT_##field) & MASK_##field)

#endif
