/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel's own structures, read at offsets that the loader took from the running kernel's BTF
 * (OFFSET_struct_member, SHIFT_ and MASK_ for bit fields). A pointer to the other end's socket is a hint that may
 * be stale: a read through it copies or yields zero, it never faults. Whoever acts on what was read first
 * compares the socket's cookie, which is never given out twice.
 */
#ifndef SOCKACCEL_KERNEL_H
#define SOCKACCEL_KERNEL_H

/* Declared by number: BCC rewrites its own bpf_probe_read_kernel() where it cannot see kallsyms. */
static long (*probe_read)(void *dst, __u32 size, const void *src) = (void *)BPF_FUNC_probe_read_kernel;

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262
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

/* include/linux/tcp.h */
#define TCP_NAGLE_OFF 1
#define TCP_NAGLE_CORK 2

/* include/net/sock.h */
#define SOCK_RCVBUF_LOCK 2

#define SK_USER_DATA_PSOCK 4ULL
#define SK_USER_DATA_MASK 7ULL

#define MEMORY_PAGE 4096
/* What other CPUs may have charged ahead of their use: MEMCG_CHARGE_BATCH is 64 pages, in kernel/mm/memcontrol.c. */
#define MEMORY_SLACK_PAGES 64
#define MEMORY_LEVELS 16

/* Keeps the compiler from moving reads and writes across. */
#define barrier() asm volatile("" ::: "memory")

/*
 * One field at a pointer's number. A probe is a helper's call and takes some 20 ns; where the kernel has
 * bpf_rdonly_cast(), a number passes for one of its structures, any that begins with 64 bits will do, and the read is
 * one instruction, which yields zero where a probe would fail (PROBE_MEM in kernel/bpf/verifier.c). The loader makes
 * these calls ones of a kernel function.
 */
#ifdef KFUNC_rdonly_cast
static void *(*rdonly_cast)(__u64 number, __u32 type) = (void *)KFUNC_rdonly_cast;
#define READ_AS(type, base, offset) (*(volatile type *)rdonly_cast((__u64)(base) + (offset), TYPE_timespec64))
/* The socket of a program's own context, where it is known to be TCP's. */
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

static inline __u64 sock_cookie(__u64 sock)
{
	return READ_U64(sock, OFFSET_sock_cookie);
}

static inline __u8 sock_state(__u64 sock)
{
	return READ_U8(sock, OFFSET_sock_state);
}

static inline __u64 sock_netns(__u64 sock)
{
	return READ_U64(READ_U64(sock, OFFSET_sock_net), OFFSET_net_cookie);
}

/* The third number of net.ipv4.tcp_rmem, in bytes. */
static inline __u32 sock_receive_maximum(__u64 sock)
{
	return READ_U32(READ_U64(sock, OFFSET_sock_net), OFFSET_net_tcp_rmem + 8);
}

/* What the peer may still send by TCP without asking, in bytes: tcp_receive_window() in include/net/tcp.h. */
static inline __u32 sock_receive_window(__u64 sock)
{
	__s32 window = READ_U32(sock, OFFSET_tcp_sock_rcv_wup) + READ_U32(sock, OFFSET_tcp_sock_rcv_wnd) -
		       READ_U32(sock, OFFSET_tcp_sock_rcv_nxt);

	return window > 0 ? window : 0;
}

/* 0 before accept() and after the last close(). */
static inline __u64 sock_file(__u64 sock)
{
	__u64 socket = READ_U64(sock, OFFSET_sock_socket);

	return socket ? READ_U64(socket, OFFSET_socket_file) : 0;
}

static inline int file_blocks(__u64 file)
{
	return !(READ_U32(file, OFFSET_file_flags) & O_NONBLOCK);
}

static inline __u64 sock_ulp(__u64 sock)
{
	return READ_U64(sock, OFFSET_sock_ulp);
}

static inline int sock_zerocopies(__u64 sock)
{
	return READ_U64(sock, OFFSET_sock_flags) & (1ULL << SOCK_ZEROCOPY) ? 1 : 0;
}

/* Whether its reader asked for what a redirect does not bring: SO_OOBINLINE, SO_TIMESTAMP and its kin, TCP_INQ. */
static inline int sock_wants_more_than_bytes(__u64 sock)
{
	__u64 flags = READ_U64(sock, OFFSET_sock_flags);

	if (flags & (1ULL << SOCK_URGINLINE | 1ULL << SOCK_RCVTSTAMP | 1ULL << SOCK_TIMESTAMPING_RX_SOFTWARE))
		return 1;
#ifdef OFFSET_tcp_sock_recvmsg_inq
	if (READ_BITS(sock, tcp_sock_recvmsg_inq))
		return 1;
#endif
	return 0;
}

/* Whether a task holds the lock of the socket, which takes more than the spin lock that programs take. */
static inline int sock_is_owned(__u64 sock)
{
	return READ_U32(sock, OFFSET_sock_lock_owned) != 0;
}

/* 0 for a socket that is in no sockmap, ours or anybody's. */
static inline __u64 sock_psock(__u64 sock)
{
	__u64 data = READ_U64(sock, OFFSET_sock_user_data);

	return data & SK_USER_DATA_PSOCK ? data & ~SK_USER_DATA_MASK : 0;
}

/*
 * Whether somebody may be inside TCP's own receive function of a member, as with MSG_WAITALL after a part that TCP
 * carried. A redirect would not wake it, and what TCP carries later would overtake. tcp_bpf_recvmsg() holds a
 * reference to the psock while it runs, tcp_recvmsg() does not; who merely waits in poll() looks the same.
 */
static inline int sock_is_read_by_tcp(__u64 sock)
{
	__u64 psock = sock_psock(sock), waiters = READ_U64(sock, OFFSET_sock_wq) + OFFSET_socket_wq_waiters;

	return psock && READ_U32(psock, OFFSET_psock_refcnt) == 1 &&
	       (sock_is_owned(sock) || READ_U64(waiters, 0) != waiters);
}

/* Where the kernel says that TCP as a whole has more memory than the second number of net.ipv4.tcp_mem. */
static inline __u64 sock_memory_pressure(__u64 sock)
{
	return READ_U64(READ_U64(sock, OFFSET_sock_prot), OFFSET_proto_memory_pressure);
}

/*
 * Whether the socket's memory cgroup, or one above it, has no room for more bytes. A redirect charges the reader from
 * the sender's send(), which may reclaim, kill, or fail with ENOMEM; TCP waits. On cgroup v1 sockets have a counter
 * of their own and no memcg unless it is limited (mem_cgroup_sk_alloc() in mm/memcontrol.c).
 */
static inline int cgroup_is_full(__u64 sock, __u32 size)
{
#ifdef OFFSET_sock_memcg
	__u64 memcg = READ_U64(sock, OFFSET_sock_memcg), counter;
	__u64 pages = size / MEMORY_PAGE + MEMORY_SLACK_PAGES;

	if (!memcg)
		return 0;
	counter = memcg + OFFSET_memcg_memory;
#ifdef OFFSET_memcg_tcpmem
	if (READ_BITS(memcg, memcg_tcpmem_active))
		counter = memcg + OFFSET_memcg_tcpmem;
#endif
#pragma clang loop unroll(disable)
	for (int level = 0; level < MEMORY_LEVELS; level++) {
		if (READ_U64(counter, OFFSET_page_counter_usage) + pages >
		    READ_U64(counter, OFFSET_page_counter_max))
			return 1;
		counter = READ_U64(counter, OFFSET_page_counter_parent);
		if (!counter)
			break;
	}
#endif
	return 0;
}

static inline int sock_is_mptcp(__u64 sock)
{
#ifdef OFFSET_sock_is_mptcp
	return READ_BITS(sock, sock_is_mptcp);
#else
	return 0;
#endif
}

#endif
