/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which connections are covered (sock_ops). The connecting end decides, in connect(): both ends on this host, one of
 * them covered by a target, nothing about them that a sockmap would break. Once established both ends are candidates;
 * the walk in connections.c lets those join that turn out to be suitable.
 */

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

/* The slot of the innermost target above a cgroup, 0 if none covers it. */
static inline u32 slot_of_cgroup(u64 cgroup)
{
	int level = READ_U32(cgroup, OFFSET_cgroup_level);

#pragma clang loop unroll(disable)
	for (int depth = 0; depth < MAX_CGROUP_DEPTH; depth++) {
		u64 ancestor, id;
		u32 *slot;

		if (level < 0)
			break;
		ancestor = READ_U64(cgroup, OFFSET_cgroup_ancestors + 8ULL * level);
		id = READ_U64(READ_U64(ancestor, OFFSET_cgroup_kn), OFFSET_kernfs_node_id);
		slot = sa_cgroups.lookup(&id);
		if (slot)
			return *slot;
		level--;
	}
	return 0;
}

static inline u64 cgroup_id(u64 sock)
{
	return READ_U64(READ_U64(READ_U64(sock, OFFSET_sock_cgroup), OFFSET_cgroup_kn), OFFSET_kernfs_node_id);
}

static inline int still_listens(struct listener *listener, struct listener_key *key)
{
	return sock_state(listener->sock) == TCP_LISTEN &&
	       READ_AS(u16, listener->sock, OFFSET_sock_num) == key->port &&
	       sock_netns(listener->sock) == key->netns;
}

/*
 * Who will answer a connection to flow's remote end: a listener on that address, on 0.0.0.0, or on [::]. key: which of
 * the three it is; without a listener any of them.
 */
static inline struct listener *listener_for(const struct flow *flow, struct listener_key *key)
{
	struct listener *listener;

	key->netns = flow->netns;
	key->port = flow->remote_port;
	key->pad = 0;
	__builtin_memcpy(key->address, flow->remote, sizeof(key->address));
#pragma clang loop unroll(disable)
	for (int any = 0; any < 3; any++) {
		listener = sa_listeners.lookup(key);
		if (listener && still_listens(listener, key))
			return listener;
		if (any)
			key->address[2] = 0;
		key->address[3] = 0;
	}
	return NULL;
}

/* The slot of a target that a listener belongs to by its cgroup, or because it serves the target. */
static inline u32 slot_of_listener(struct listener *listener, struct listener_key *key)
{
	u32 slot = slot_of_cgroup(READ_U64(listener->sock, OFFSET_sock_cgroup));
	u32 *served = slot ? NULL : sa_served.lookup(key);

	return served ? *served : slot;
}

/* Whether an accepting end comes from that very listener, as far as cgroups tell. */
static inline int is_child(u64 sock, struct listener *listener)
{
	return READ_U64(sock, OFFSET_sock_cgroup) == READ_U64(listener->sock, OFFSET_sock_cgroup);
}

static inline void remember_listener(u64 sock, u32 pid, const char *comm, u32 mptcp)
{
	struct listener_key key = {.netns = sock_netns(sock), .port = READ_AS(u16, sock, OFFSET_sock_num)};
	struct listener listener = {.sock = sock, .pid = pid, .mptcp = mptcp};

	read_address(sock, OFFSET_sock_rcv_saddr, OFFSET_sock_v6_rcv_saddr, key.address);
	__builtin_memcpy(listener.comm, comm, sizeof(listener.comm));
	sa_listeners.update(&key, &listener);
}

static inline void on_listen(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	char comm[16] = {};
	u32 pid = 0;
	u64 sock;

	if (!sk)
		return;
	sock = (u64)bpf_skc_to_tcp_sock(sk);
	if (!sock)
		return;
#ifdef SOCK_OPS_KNOWS_PID
	pid = bpf_get_current_pid_tgid() >> 32;
#endif
#ifdef SOCK_OPS_KNOWS_COMM
	bpf_get_current_comm(comm, sizeof(comm));
#endif
	remember_listener(sock, pid, comm, sock_is_mptcp(sock));
}

static inline void refuse(struct connection *connection, u32 reason)
{
	connection->state = LEFT;
	connection->reason = reason;
	count(connection->slot, reason, 1);
	report(connection, EVENT_REFUSED, reason);
}

static inline u32 reason_against(u64 sock)
{
	/* Before the next: the kernel makes an MPTCP socket's subflows itself. */
	if (sock_is_mptcp(sock))
		return MPTCP;
	if (READ_BITS(sock, sock_kern_sock))
		return KERNEL_SOCKET;
	if (READ_BITS(sock, tcp_sock_repair))
		return REPAIR;
	/* Being in the map is enough to number its completions wrongly. */
	if (sock_zerocopies(sock))
		return ZEROCOPY_END;
	return 0;
}

static inline void on_connect(struct bpf_sock_ops *ops)
{
	struct connection *connection;
	struct listener_key key = {};
	struct bpf_sock *sk = ops->sk;
	struct listener *listener;
	struct target *target;
	struct flow flow = {};
	u32 slot, reason, by_listener = 0, to_mptcp = 0;
	u64 sock;

	if (!sk)
		return;
	sock = (u64)bpf_skc_to_tcp_sock(sk);
	if (!sock)
		return;
	/* A socket that was disconnected (AF_UNSPEC) and connects anew: what it had not read belongs to the old
	 * connection, and the kernel keeps it in the map under the old key. One that is not in the map, because it
	 * failed to connect or left, must not touch that key, which may be somebody else's by now. */
	connection = sa_connections.sk_storage_get(sk, 0, 0);
	if (connection) {
		if (connection->in_map && sock_psock(sock))
			sa_members.delete(&connection->own);
		if (connection->marked)
			want_sweep(SWEEP_NOW);
		sa_connections.sk_storage_delete(sk);
	}
	read_flow(sock, &flow);
	slot = slot_of_cgroup(READ_U64(sock, OFFSET_sock_cgroup));
	if (!is_local(&flow)) {
		if (slot)
			count(slot, NOT_LOCAL, 1);
		return;
	}
	listener = listener_for(&flow, &key);
	/* Read at once: the verifier of 6.1 loses sight of this comparison with NULL. */
	if (listener)
		to_mptcp = listener->mptcp;
	if (!slot && listener) {
		slot = slot_of_listener(listener, &key);
		by_listener = 1;
	}
	/* A bystander: nothing of it is kept. */
	if (!slot)
		return;
	target = sa_targets.lookup(&slot);
	if (!target)
		return;
	connection = sa_connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!connection)
		return;
	connection->own = flow;
	mirror(&flow, &connection->peer);
	connection->cookie = bpf_get_socket_cookie(ops);
	connection->since_ns = bpf_ktime_get_ns();
	connection->cgroup = cgroup_id(sock);
	connection->slot = slot;
	connection->generation = target->generation;
	connection->active = 1;
	connection->by_listener = by_listener;
	connection->state = CONNECTING;
#ifdef SOCK_OPS_KNOWS_PID
	connection->pid = bpf_get_current_pid_tgid() >> 32;
#endif
#ifdef SOCK_OPS_KNOWS_COMM
	bpf_get_current_comm(connection->comm, sizeof(connection->comm));
#endif
	reason = reason_against(sock);
	if (!reason && to_mptcp)
		reason = MPTCP;
	if (!reason && is_excluded(&flow, READ_U32(sock, OFFSET_sock_uid)))
		reason = EXCLUDED;
	if (!reason && flow.local_port == flow.remote_port && same_address(flow.local, flow.remote))
		reason = SELF_CONNECT;
	if (reason)
		refuse(connection, reason);
}

/* Makes an established end known to the other one; 0, or the reason why not. */
static inline u32 become_candidate(struct bpf_sock_ops *ops, struct connection *connection, u64 sock)
{
	struct peer self = {
		.sock = sock,
		.cookie = connection->cookie,
		.slot = connection->slot,
		.generation = connection->generation,
		.initial_sequence = READ_U32(sock, OFFSET_tcp_sock_write_seq),
		.by_listener = connection->by_listener,
	};
	int zero = 0;
	struct settings *settings = sa_settings.lookup(&zero);
	struct flow key = connection->own;

	if (!settings || sa_peers.update(&key, &self))
		return MAP_FULL;
	connection->due_ns = bpf_ktime_get_ns() + settings->join_after_ns;
	/* Last: a walk may be at this end just now, and believes what it finds from then on. */
	barrier();
	connection->state = CANDIDATE;
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	want_sweep(SWEEP_LATER);
	return 0;
}

static inline void on_active_established(struct bpf_sock_ops *ops)
{
	struct connection *connection;
	struct bpf_sock *sk = ops->sk;
	struct target *target;
	u32 reason;
	u64 sock;

	if (!sk)
		return;
	connection = sa_connections.sk_storage_get(sk, 0, 0);
	if (!connection || connection->state != CONNECTING)
		return;
	sock = (u64)bpf_skc_to_tcp_sock(sk);
	target = sa_targets.lookup(&connection->slot);
	/* Disabled between connect() and now. */
	if (!sock || !is_enabled(target, connection))
		return;
	/* The accepting end was established by the SYN and its data, before it could find this one. */
	reason = ops->data_segs_out ? FAST_OPEN : become_candidate(ops, connection, sock);
	if (reason)
		refuse(connection, reason);
}

/* An accepting end of a target that stays with TCP although it was seen in time: it is listed with its reason. */
static inline void note_left(struct bpf_sock_ops *ops, struct bpf_sock *sk, u64 sock, const struct flow *flow,
			     const struct flow *other, u32 slot, u32 reason)
{
	struct connection *connection;
	struct target *target = slot ? sa_targets.lookup(&slot) : NULL;

	if (!target)
		return;
	connection = sa_connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!connection)
		return;
	connection->own = *flow;
	connection->peer = *other;
	connection->cookie = bpf_get_socket_cookie(ops);
	connection->since_ns = bpf_ktime_get_ns();
	connection->cgroup = cgroup_id(sock);
	connection->slot = slot;
	connection->generation = target->generation;
	connection->reason = reason;
	connection->state = LEFT;
}

static inline void on_passive_established(struct bpf_sock_ops *ops)
{
	struct connection *connection;
	struct bpf_sock *sk = ops->sk;
	struct flow flow = {}, other;
	struct listener_key key = {};
	struct listener *listener;
	struct peer *peer;
	u32 reason, slot;
	u64 sock;

	if (!sk)
		return;
	sock = (u64)bpf_skc_to_tcp_sock(sk);
	if (!sock)
		return;
	read_flow(sock, &flow);
	slot = slot_of_cgroup(READ_U64(sock, OFFSET_sock_cgroup));
	if (!is_local(&flow)) {
		if (slot)
			count(slot, NOT_LOCAL, 1);
		return;
	}
	mirror(&flow, &other);
	peer = sa_peers.lookup(&other);
	if (!peer || sock_cookie(peer->sock) != peer->cookie) {
		if (slot)
			count(slot, CLIENT_UNSEEN, 1);
		note_left(ops, sk, sock, &flow, &other, slot, CLIENT_UNSEEN);
		return;
	}
	/* It was left out, for a reason that has been counted. */
	if (peer->refused) {
		note_left(ops, sk, sock, &flow, &other, slot, peer->refused);
		return;
	}
	listener = listener_for(&other, &key);
	if (!slot && listener && is_child(sock, listener))
		slot = slot_of_listener(listener, &key);
	/* With SO_REUSEPORT another listener than the one that was found may have answered, outside every target. */
	if (peer->by_listener && slot != peer->slot) {
		peer->refused = COUNTERS_COUNT;
		note_left(ops, sk, sock, &flow, &other, slot, LONELY);
		return;
	}
	/* Address translation can show two strangers the same mirrored addresses; two initial sequence numbers
	 * do not agree by chance. */
	if (READ_U32(sock, OFFSET_tcp_sock_copied_seq) != peer->initial_sequence ||
	    READ_U32(sock, OFFSET_tcp_sock_write_seq) != READ_U32(peer->sock, OFFSET_tcp_sock_copied_seq)) {
		peer->refused = PEER_MISMATCH;
		count(peer->slot, PEER_MISMATCH, 1);
		note_left(ops, sk, sock, &flow, &other, slot, PEER_MISMATCH);
		return;
	}
	/* The connecting end then stays alone, and is left out in the end. */
	connection = sa_connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!connection)
		return;
	connection->own = flow;
	connection->peer = other;
	connection->cookie = bpf_get_socket_cookie(ops);
	connection->since_ns = bpf_ktime_get_ns();
	connection->cgroup = cgroup_id(sock);
	connection->slot = peer->slot;
	connection->generation = peer->generation;
	if (listener) {
		connection->pid = listener->pid;
		__builtin_memcpy(connection->comm, listener->comm, sizeof(connection->comm));
	}
	reason = reason_against(sock);
	if (!reason)
		reason = become_candidate(ops, connection, sock);
	if (reason) {
		peer->refused = reason;
		refuse(connection, reason);
	}
}

/* The kernel takes a socket out of the map by itself when it is closed; the rest of what is known goes here. */
static inline void on_close(struct connection *connection)
{
	struct flow key = connection->own;
	struct peer *self = sa_peers.lookup(&key);

	if (self && self->cookie == connection->cookie) {
		/* What kept it out until now, if it has been looked at. */
		if (connection->state == CANDIDATE && connection->active && !self->refused && !connection->pauses)
			count(connection->slot, connection->reason ? connection->reason : SHORT, 1);
		sa_peers.delete(&key);
	}
	/* A candidate that was never in. */
	if (connection->state != JOINED && !(connection->state == CANDIDATE && connection->pauses)) {
		connection->state = LEFT;
		return;
	}
	connection->state = LEFT;
	/* The daemon waits for the last one that drains. */
	if (connection->marked && connection->in_map)
		want_sweep(SWEEP_NOW);
	count(connection->slot, CONNECTIONS_CLOSED, 1);
	report(connection, EVENT_CLOSED, 0);
}

static inline void on_state(struct bpf_sock_ops *ops)
{
	struct connection *connection;
	struct bpf_sock *sk = ops->sk;
	u32 state = ops->args[1];
	u64 sock;

	if (!sk || (state != TCP_FIN_WAIT1 && state != TCP_LAST_ACK && state != TCP_CLOSE))
		return;
	connection = sa_connections.sk_storage_get(sk, 0, 0);
	sock = (u64)bpf_skc_to_tcp_sock(sk);
	if (!connection || !sock)
		return;
	count_tcp_bytes(connection, READ_U32(sock, OFFSET_tcp_sock_write_seq));
	if (state == TCP_CLOSE)
		on_close(connection);
	else
		connection->fin_sent = 1;
}

/* Always 1: any other value would reach a sock_ops program of somebody else as this one's answer. */
int sockaccel_join(struct bpf_sock_ops *ops)
{
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		on_listen(ops);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		on_connect(ops);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		on_active_established(ops);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		on_passive_established(ops);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		on_state(ops);
		break;
	}
	return 1;
}
