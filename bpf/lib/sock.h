/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the programs read from sockets, and from what sockets point to. */
#ifndef SOCKACCEL_SOCK_H
#define SOCKACCEL_SOCK_H

#include "lib/kernel.h"

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

/*
 * Whether the other end of a connection that is established now may be in the same network namespace: the packet that
 * established it came over the loopback interface, or so soon that the connecting end was still inside connect(). Of
 * such a packet the kernel forgets where it came from (tcp_add_backlog() in net/ipv4/tcp_ipv4.c).
 */
static inline int sock_may_be_near(__u64 sock)
{
	return READ_U32(sock, OFFSET_sock_arrived_by) <= LOOPBACK_INDEX;
}

static inline int is_same_namespace(__u64 sock, __u64 other)
{
	return READ_U64(sock, OFFSET_sock_net) == READ_U64(other, OFFSET_sock_net);
}

/* The user namespace that owns the network namespace. */
static inline __u64 sock_owner(__u64 sock)
{
	return READ_U64(READ_U64(sock, OFFSET_sock_net), OFFSET_net_user_ns);
}

/* The third number of net.ipv4.tcp_rmem, in bytes. */
static inline __u32 sock_receive_maximum(__u64 sock)
{
	return READ_U32(READ_U64(sock, OFFSET_sock_net), OFFSET_net_tcp_rmem + 8);
}

/* Bytes that the peer may still send by TCP: tcp_receive_window() in include/net/tcp.h. */
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

static inline int sock_zerocopies(__u64 sock)
{
	return READ_U64(sock, OFFSET_sock_flags) & (1ULL << SOCK_ZEROCOPY) ? 1 : 0;
}

/* Whether a task holds the socket's lock (lock_sock()), as in a call. */
static inline int sock_is_owned(__u64 sock)
{
	return READ_U32(sock, OFFSET_sock_lock_owned) != 0;
}

/* What a sockmap attaches to a socket; 0 if the socket is in no sockmap, neither ours nor another. */
static inline __u64 sock_psock(__u64 sock)
{
	__u64 data = READ_U64(sock, OFFSET_sock_user_data);

	return data & SK_USER_DATA_PSOCK ? data & ~SK_USER_DATA_MASK : 0;
}

/* Whether redirected bytes wait in the socket to be read. */
static inline int sock_holds_redirected(__u64 sock)
{
	__u64 psock = sock_psock(sock), head = psock + OFFSET_psock_ingress_msg;

	return psock && READ_U64(head, 0) != head;
}

/*
 * Whether a task may be inside TCP's own receive function of a member, as with MSG_WAITALL after TCP carried a
 * part. A redirect would not wake it, and bytes that TCP carries later would overtake the redirected ones.
 * tcp_bpf_recvmsg() holds a reference to the psock while it runs, tcp_recvmsg() does not. A task that waits in
 * poll() looks the same.
 */
static inline int sock_is_read_by_tcp(__u64 sock)
{
	__u64 psock = sock_psock(sock), waiters = READ_U64(sock, OFFSET_sock_wq) + OFFSET_socket_wq_waiters;

	return psock && READ_U32(psock, OFFSET_psock_refcnt) == 1 &&
	       (sock_is_owned(sock) || READ_U64(waiters, 0) != waiters);
}

/*
 * Address of the flag that the kernel sets while TCP has more memory than the second number of net.ipv4.tcp_mem.
 */
static inline __u64 sock_memory_pressure(__u64 sock)
{
	return READ_U64(READ_U64(sock, OFFSET_sock_prot), OFFSET_proto_memory_pressure);
}

/*
 * Whether the socket's memory cgroup, or one above it, has no room for more bytes. A redirect charges the reader's
 * cgroup in the sender's send(), which may then reclaim, kill, or fail with ENOMEM; TCP would wait. On cgroup v1
 * sockets have a counter of their own, and no memcg unless it is limited (mem_cgroup_sk_alloc() in
 * mm/memcontrol.c).
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
