/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Addresses and ports of a connection. */
#include "lib/sock.h"

static inline void read_address(u64 sock, u32 v4_offset, u32 v6_offset, u32 *address)
{
	if (READ_AS(u16, sock, OFFSET_sock_family) == AF_INET6) {
		probe_read(address, 16, (void *)(sock + v6_offset));
		return;
	}
	address[2] = bpf_htonl(0xffff);
	address[3] = READ_U32(sock, v4_offset);
}

/* The connection as the socket sees it. The caller has zeroed flow. */
static inline void read_flow(u64 sock, struct flow *flow)
{
	flow->netns = sock_netns(sock);
	/* Where a listener has skc_num, which the kernel forgets when the socket is closed. */
	flow->local_port = bpf_ntohs(READ_AS(u16, sock, OFFSET_inet_sport));
	flow->remote_port = bpf_ntohs(READ_AS(u16, sock, OFFSET_sock_dport));
	/* One branch for both addresses: the verifier explores what follows for each. */
	if (READ_AS(u16, sock, OFFSET_sock_family) == AF_INET6) {
		probe_read(flow->local, 16, (void *)(sock + OFFSET_sock_v6_rcv_saddr));
		probe_read(flow->remote, 16, (void *)(sock + OFFSET_sock_v6_daddr));
		return;
	}
	flow->local[2] = flow->remote[2] = bpf_htonl(0xffff);
	flow->local[3] = READ_U32(sock, OFFSET_sock_rcv_saddr);
	flow->remote[3] = READ_U32(sock, OFFSET_sock_daddr);
}

/* The same connection as the other end sees it. */
static inline void mirror(const struct flow *flow, struct flow *peer_flow)
{
	peer_flow->netns = flow->netns;
	__builtin_memcpy(peer_flow->local, flow->remote, sizeof(peer_flow->local));
	__builtin_memcpy(peer_flow->remote, flow->local, sizeof(peer_flow->remote));
	peer_flow->local_port = flow->remote_port;
	peer_flow->remote_port = flow->local_port;
	peer_flow->pad = 0;
}

static inline int is_v4(const u32 *address)
{
	return !address[0] && !address[1] && address[2] == bpf_htonl(0xffff);
}

static inline int same_address(const u32 *a, const u32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

/* Whether the addresses alone say that the remote end is on this host. */
static inline int is_local(const struct flow *flow)
{
	const u32 *remote = flow->remote;

	if (is_v4(remote) && (bpf_ntohl(remote[3]) >> 24) == 127)
		return 1;
	if (!remote[0] && !remote[1] && !remote[2] && remote[3] == bpf_htonl(1))
		return 1;
	return same_address(flow->local, remote);
}

/* The same of a socket. */
static inline int sock_is_local(u64 sock)
{
	struct flow flow = {};

	read_flow(sock, &flow);
	return is_local(&flow);
}
