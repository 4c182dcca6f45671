/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which connections are covered (sock_ops). The connecting end decides, in connect(): both ends on this host, one of
 * them covered by a target, nothing about them that a sockmap would break. Once established both ends are candidates;
 * the walk in connections.c lets those join that turn out to be suitable.
 */

/* The program that the callback runs in, where the kernel tells. */
static inline void note_program(u32 *pid, char *comm)
{
#ifdef SOCK_OPS_KNOWS_PID
	*pid = bpf_get_current_pid_tgid() >> 32;
#endif
#ifdef SOCK_OPS_KNOWS_COMM
	bpf_get_current_comm(comm, 16);
#endif
}

static inline void on_listen(u64 sock)
{
	char comm[16] = {};
	u32 pid = 0;

	note_program(&pid, comm);
	remember_listener(sock, pid, comm, sock_is_mptcp(sock));
}

/*
 * A socket that was disconnected (AF_UNSPEC) and connects anew: what it had not read belongs to the old connection, and
 * the kernel keeps it in the map under the old key. One that is not in the map, because it failed to connect or left,
 * must not touch that key, which may be somebody else's by now.
 */
static inline void forget_earlier(struct bpf_sock *sk, u64 sock)
{
	struct connection *connection = sa_connections.sk_storage_get(sk, 0, 0);

	if (!connection)
		return;
	if (connection->in_map && sock_psock(sock))
		sa_members.delete(&connection->own);
	if (connection->marked)
		want_sweep(SWEEP_NOW);
	sa_connections.sk_storage_delete(sk);
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

static inline u32 reason_against_connecting(const struct end *end, u32 to_mptcp)
{
	u32 reason = reason_against(end->sock);

	if (reason)
		return reason;
	if (to_mptcp)
		return MPTCP;
	if (is_excluded(&end->flow, READ_U32(end->sock, OFFSET_sock_uid)))
		return EXCLUDED;
	if (end->flow.local_port == end->flow.remote_port && same_address(end->flow.local, end->flow.remote))
		return SELF_CONNECT;
	return 0;
}

/* first: the connecting end, as it is known. */
static inline u32 reason_against_accepting(const struct end *end, struct peer *first)
{
	/* With SO_REUSEPORT another listener than the one that was found may have answered, outside every target. */
	if (first->by_listener && end->slot != first->slot) {
		first->refused = COUNTERS_COUNT;
		return LONELY;
	}
	/* Address translation can show two strangers the same mirrored addresses; two initial sequence numbers
	 * do not agree by chance. */
	if (READ_U32(end->sock, OFFSET_tcp_sock_copied_seq) != first->initial_sequence ||
	    READ_U32(end->sock, OFFSET_tcp_sock_write_seq) != READ_U32(first->sock, OFFSET_tcp_sock_copied_seq)) {
		first->refused = PEER_MISMATCH;
		count(first->slot, PEER_MISMATCH, 1);
		return PEER_MISMATCH;
	}
	return 0;
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

/* The connecting end hears of what the accepting one found out. */
static inline void refuse(struct connection *connection, u32 reason)
{
	struct peer *first = connection->active ? NULL : sa_peers.lookup(&connection->peer);

	if (first)
		first->refused = reason;
	connection->state = LEFT;
	connection->reason = reason;
	count(connection->slot, reason, 1);
}

/*
 * Keeps what is known of a new end that a target covers; NULL if none does, or if there is nothing more to do about it.
 * reason: why its connection stays with TCP, not counted yet.
 */
static inline struct connection *on_new_end(struct bpf_sock_ops *ops, struct bpf_sock *sk, u64 sock, u32 *reason)
{
	struct end end = {.sock = sock, .active = ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB};
	struct listener_key key = {};
	struct connection *connection;
	struct listener *listener;
	struct peer *first = NULL;
	struct target *target;
	/* For an accepting end that was seen in time: it is listed with its reason. */
	u32 left = 0, to_mptcp = 0;

	read_flow(sock, &end.flow);
	end.slot = slot_of_cgroup(READ_U64(sock, OFFSET_sock_cgroup));
	if (!is_local(&end.flow)) {
		if (end.slot)
			count(end.slot, NOT_LOCAL, 1);
		return NULL;
	}
	mirror(&end.flow, &end.other);
	if (!end.active) {
		first = sa_peers.lookup(&end.other);
		if (!first || sock_cookie(first->sock) != first->cookie) {
			if (!end.slot)
				return NULL;
			count(end.slot, CLIENT_UNSEEN, 1);
			left = CLIENT_UNSEEN;
		} else {
			/* It was left out, for a reason that has been counted. */
			left = first->refused;
		}
	}
	if (!left) {
		listener = listener_for(end.active ? &end.flow : &end.other, &key);
		/* Read at once: the verifier of 6.1 loses sight of this comparison with NULL. */
		if (listener) {
			to_mptcp = listener->mptcp;
			end.pid = listener->pid;
			__builtin_memcpy(end.comm, listener->comm, sizeof(end.comm));
			if (!end.slot && (end.active || is_child(sock, listener))) {
				end.slot = slot_of_listener(listener, &key);
				end.by_listener = 1;
			}
		}
		if (first)
			left = reason_against_accepting(&end, first);
	}
	if (first && !left) {
		end.slot = first->slot;
		end.generation = first->generation;
	} else {
		/* A bystander: nothing of it is kept. */
		if (!end.slot)
			return NULL;
		target = sa_targets.lookup(&end.slot);
		if (!target)
			return NULL;
		end.generation = target->generation;
	}
	if (end.active) {
		end.pid = 0;
		__builtin_memset(end.comm, 0, sizeof(end.comm));
		note_program(&end.pid, end.comm);
	}
	end.cookie = bpf_get_socket_cookie(ops);
	/* Without it the connecting end stays alone, and is left out in the end. */
	connection = sa_connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!connection)
		return NULL;
	begin(connection, &end);
	connection->reason = left;
	connection->state = left ? LEFT : CONNECTING;
	if (left)
		return NULL;
	*reason = end.active ? reason_against_connecting(&end, to_mptcp) : reason_against(sock);
	return connection;
}

static inline struct connection *on_active_established(struct bpf_sock_ops *ops, struct bpf_sock *sk, u32 *reason)
{
	struct connection *connection = sa_connections.sk_storage_get(sk, 0, 0);
	struct target *target;

	if (!connection || connection->state != CONNECTING)
		return NULL;
	target = sa_targets.lookup(&connection->slot);
	/* Disabled between connect() and now. */
	if (!is_enabled(target, connection))
		return NULL;
	/* The accepting end was established by the SYN and its data, before it could find this one. */
	if (ops->data_segs_out)
		*reason = FAST_OPEN;
	return connection;
}

/*
 * The kernel takes a socket out of the map by itself when it is closed; the rest of what is known goes here. 1 if it
 * was in.
 */
static inline int on_close(struct connection *connection)
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
		return 0;
	}
	connection->state = LEFT;
	/* The daemon waits for the last one that drains. */
	if (connection->marked && connection->in_map)
		want_sweep(SWEEP_NOW);
	count(connection->slot, CONNECTIONS_CLOSED, 1);
	return 1;
}

/* NULL if there is nothing to tell. */
static inline struct connection *on_state(struct bpf_sock_ops *ops, struct bpf_sock *sk, u64 sock)
{
	struct connection *connection = sa_connections.sk_storage_get(sk, 0, 0);

	if (!connection)
		return NULL;
	count_tcp_bytes(connection, READ_U32(sock, OFFSET_tcp_sock_write_seq));
	if (ops->args[1] == TCP_CLOSE)
		return on_close(connection) ? connection : NULL;
	connection->fin_sent = 1;
	return NULL;
}

/* Most callbacks are none of these: bystanders pay for each. */
static inline int is_for_us(struct bpf_sock_ops *ops)
{
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		return 1;
	case BPF_SOCK_OPS_STATE_CB:
		return ops->args[1] == TCP_FIN_WAIT1 || ops->args[1] == TCP_LAST_ACK || ops->args[1] == TCP_CLOSE;
	}
	return 0;
}

/* Always 1: any other value would reach a sock_ops program of somebody else as this one's answer. */
int sockaccel_join(struct bpf_sock_ops *ops)
{
	struct connection *connection = NULL;
	struct bpf_sock *sk;
	u32 reason = 0;
	u64 sock;

	if (!is_for_us(ops))
		return 1;
	sk = ops->sk;
	if (!sk)
		return 1;
	sock = (u64)bpf_skc_to_tcp_sock(sk);
	if (!sock)
		return 1;
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		on_listen(sock);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		forget_earlier(sk, sock);
		/* fallthrough */
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		connection = on_new_end(ops, sk, sock, &reason);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		connection = on_active_established(ops, sk, &reason);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		connection = on_state(ops, sk, sock);
		break;
	}
	if (!connection)
		return 1;
	if (ops->op != BPF_SOCK_OPS_TCP_CONNECT_CB && ops->op != BPF_SOCK_OPS_STATE_CB && !reason)
		reason = become_candidate(ops, connection, sock);
	if (reason)
		refuse(connection, reason);
	/* In one place for all: each copy of it takes the compiler some 15 ms of a cold start. */
	if (reason || ops->op == BPF_SOCK_OPS_STATE_CB)
		report(connection, reason ? EVENT_REFUSED : EVENT_CLOSED, reason);
	return 1;
}
