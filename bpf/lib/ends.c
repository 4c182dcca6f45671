/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One end of a connection: what its socket says, and what is kept with it. */

static inline void read_address(u64 sock, u32 v4_offset, u32 v6_offset, u32 *address)
{
	if (READ_AS(u16, sock, OFFSET_sock_family) == AF_INET6) {
		probe_read(address, 16, (void *)(sock + v6_offset));
		return;
	}
	address[2] = bpf_htonl(0xffff);
	address[3] = READ_U32(sock, v4_offset);
}

/* The socket's own view of its connection. flow: zeroed. */
static inline void read_flow(u64 sock, struct flow *flow)
{
	flow->netns = sock_netns(sock);
	flow->local_port = READ_AS(u16, sock, OFFSET_sock_num);
	flow->remote_port = bpf_ntohs(READ_AS(u16, sock, OFFSET_sock_dport));
	read_address(sock, OFFSET_sock_rcv_saddr, OFFSET_sock_v6_rcv_saddr, flow->local);
	read_address(sock, OFFSET_sock_daddr, OFFSET_sock_v6_daddr, flow->remote);
}

static inline void mirror(const struct flow *flow, struct flow *other)
{
	other->netns = flow->netns;
	__builtin_memcpy(other->local, flow->remote, sizeof(other->local));
	__builtin_memcpy(other->remote, flow->local, sizeof(other->remote));
	other->local_port = flow->remote_port;
	other->remote_port = flow->local_port;
	other->pad = 0;
}

static inline int is_v4(const u32 *address)
{
	return !address[0] && !address[1] && address[2] == bpf_htonl(0xffff);
}

static inline int same_address(const u32 *a, const u32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static inline int is_local(const struct flow *flow)
{
	const u32 *remote = flow->remote;

	if (is_v4(remote) && (bpf_ntohl(remote[3]) >> 24) == 127)
		return 1;
	if (!remote[0] && !remote[1] && !remote[2] && remote[3] == bpf_htonl(1))
		return 1;
	return same_address(flow->local, remote);
}

/* An end before anything of it is kept. other: its connection as the other end sees it. */
struct end {
	struct flow flow;
	struct flow other;
	u64 sock;
	u64 cookie;
	u32 slot;
	u32 generation;
	u32 active;
	u32 by_listener;
	u32 pid;
	u32 pad;
	char comm[16];
};

static inline void begin(struct connection *connection, const struct end *end)
{
	connection->own = end->flow;
	connection->peer = end->other;
	connection->cookie = end->cookie;
	connection->since_ns = bpf_ktime_get_ns();
	connection->cgroup = cgroup_id(end->sock);
	connection->slot = end->slot;
	connection->generation = end->generation;
	connection->active = end->active;
	connection->by_listener = end->by_listener;
	connection->pid = end->pid;
	__builtin_memcpy(connection->comm, end->comm, sizeof(connection->comm));
}
