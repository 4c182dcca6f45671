/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Decides which connections are covered (sock_ops). The connecting end decides, in connect(): both ends must be on
 * this host, one of them must belong to a target, and nothing about them may be what a sockmap would break. When
 * the connection is established both ends become candidates. A walk lets those join that turn out to be suitable
 * (judge.c).
 */
#include "lib/sock.h"

/*
 * What a callback finds out. reason: why the end stays with TCP, not counted yet. cookie: that of the connecting
 * end, whose entry may be another flow's by now; for an accepting end.
 */
struct answer {
	u64 cookie;
	u32 reason;
	u32 pad;
};

/* What a listener says of those who will answer: an MPTCP socket; a program that acceleration would hurt. */
struct answering {
	u32 mptcp;
	u32 hurt;
};

/*
 * The program in whose context the kernel calls this one. Read from the task: bpf_get_current_comm() and
 * bpf_get_current_pid_tgid() are for sock_ops programs since 6.18 and 6.10 only. comm: 16 bytes, all zero.
 */
static inline void note_program(u32 *pid, char *comm)
{
	u64 task = bpf_get_current_task();

	*pid = READ_U32(task, OFFSET_task_tgid);
	read_name(task, comm);
}

/* The flags are shared by all programs. Accepted sockets inherit them, and are called for a little more often. */
static inline void watch_state(struct bpf_sock_ops *ops)
{
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static inline void on_listen(struct bpf_sock_ops *ops, u64 sock)
{
	if (remember_listener(sock, bpf_get_current_task(), sock_is_mptcp(sock)))
		watch_state(ops);
}

/*
 * A socket can be disconnected (AF_UNSPEC) and connect anew. The kernel keeps it in the map under the old key, and
 * bytes that it has not read belong to the old connection. If it is no member, because it failed to connect or has
 * left, the key may be another socket's by now and must not be touched.
 */
static inline void forget_earlier(struct bpf_sock *sk, u64 sock)
{
	struct end *end = sa_ends.sk_storage_get(sk, 0, 0);

	if (!end)
		return;
	if (end->in_map && sock_psock(sock))
		sa_members.delete(&end->own_flow);
	if (end->marked)
		want_sweep(SWEEP_NOW);
	sa_ends.sk_storage_delete(sk);
}

static inline u32 reason_against(u64 sock)
{
	/* Asked before KERNEL_SOCKET: the kernel itself makes the subflows of an MPTCP socket. */
	if (sock_is_mptcp(sock))
		return MPTCP;
	if (READ_BITS(sock, sock_kern_sock))
		return KERNEL_SOCKET;
	if (READ_BITS(sock, tcp_sock_repair))
		return REPAIR;
	/* The kernel numbers the completions of such a socket wrongly as soon as it is a member. */
	if (sock_zerocopies(sock))
		return ZEROCOPY_END;
	return NO_REASON;
}

static inline u32 reason_against_connecting(const struct new_end *new_end, const struct answering *answering)
{
	u32 reason = reason_against(new_end->sock);
	const struct flow *flow = &new_end->own_flow;

	if (reason)
		return reason;
	if (answering->mptcp)
		return MPTCP;
	if (is_excluded(new_end->slot, flow, READ_U32(new_end->sock, OFFSET_sock_uid)))
		return EXCLUDED;
	if (flow->local_port == flow->remote_port && same_address(flow->local, flow->remote))
		return SELF_CONNECT;
	return answering->hurt || current_is_hurt() ? KNOWN_PROGRAM : NO_REASON;
}

static inline u32 reason_against_accepting(const struct new_end *new_end, struct peer_entry *connecting,
					   u64 cookie)
{
	/* With SO_REUSEPORT another listener than the one that was found may answer, outside every target. */
	if (connecting->by_listener && new_end->slot != connecting->slot) {
		connecting->refused = note(cookie, UNCOUNTED);
		return LONELY;
	}
	/* Address translation can give two strangers the same mirrored addresses. Both initial sequence numbers do
	 * not agree by chance. */
	if (READ_U32(new_end->sock, OFFSET_tcp_sock_copied_seq) != connecting->initial_sequence ||
	    READ_U32(new_end->sock, OFFSET_tcp_sock_write_seq) !=
		    READ_U32(connecting->sock, OFFSET_tcp_sock_copied_seq)) {
		connecting->refused = note(cookie, PEER_MISMATCH);
		count(connecting->slot, PEER_MISMATCH, 1);
		return PEER_MISMATCH;
	}
	return NO_REASON;
}

/* Lets the other end find an established end. Returns NO_REASON, or why the end cannot be a candidate. */
static inline u32 become_candidate(struct bpf_sock_ops *ops, struct end *end, u64 sock)
{
	struct peer_entry entry = {
		.sock = sock,
		.cookie = end->cookie,
		.slot = end->slot,
		.generation = end->generation,
		.initial_sequence = READ_U32(sock, OFFSET_tcp_sock_write_seq),
		.by_listener = end->by_listener,
	};
	struct target *target = target_of(end);
	struct flow key = end->own_flow;

	if (!target || sa_peers.update(&key, &entry))
		return MAP_FULL;
	end->due_ns = bpf_ktime_get_ns() + target->join_after_ns;
	/* Written last: a walk may be at this end now, and relies on all of the above when it sees CANDIDATE. */
	barrier();
	end->state = CANDIDATE;
	watch_state(ops);
	want_sweep(SWEEP_LATER);
	return NO_REASON;
}

/*
 * Leaves a connection to TCP, and tells the connecting end what the accepting end found out. cookie: that of the
 * connecting end, for an accepting one.
 */
static inline void refuse(struct end *end, u32 reason, u64 cookie)
{
	struct peer_entry *connecting = end->active ? NULL : sa_peers.lookup(&end->peer_flow);

	if (connecting)
		connecting->refused = note(cookie, reason);
	if (end->state != LEFT)
		count_kept(0, 1);
	end->state = LEFT;
	end->reason = reason;
	count(end->slot, reason, 1);
}

/* What the connecting end left for an accepting one, and its cookie; NULL if it left nothing or is gone. */
static inline struct peer_entry *entry_of_connecting(struct new_end *new_end, u64 *cookie)
{
	struct peer_entry *connecting = sa_peers.lookup(&new_end->peer_flow);

	if (!connecting)
		return NULL;
	*cookie = connecting->cookie;
	return sock_cookie(connecting->sock) == *cookie ? connecting : NULL;
}

/*
 * Asks the listener that answers the connection for its program and, if the end's own cgroup has no target, for
 * its.
 */
static inline void ask_listener(struct new_end *new_end, struct answering *answering)
{
	struct listener_key key = {};
	struct listener listener = {};

	if (!listener_for(new_end->active ? &new_end->own_flow : &new_end->peer_flow, &key, &listener))
		return;
	answering->mptcp = listener.mptcp;
	answering->hurt = is_hurt(&listener.executable, listener.comm);
	new_end->pid = listener.pid;
	__builtin_memcpy(new_end->comm, listener.comm, sizeof(new_end->comm));
	if (!new_end->slot && (new_end->active || is_child(new_end->sock, &listener))) {
		new_end->slot = slot_of_listener(&listener, &key);
		new_end->by_listener = 1;
	}
}

/*
 * Gives an end the generation of the target in its slot. Returns 0 if there is no target: the end is not covered.
 */
static inline int find_generation(struct new_end *new_end)
{
	struct target *target;

	if (!new_end->slot)
		return 0;
	target = sa_targets.lookup(&new_end->slot);
	if (!target)
		return 0;
	new_end->generation = target->generation;
	return 1;
}

/*
 * Makes the storage of an end. NULL if there is no place or no memory: the other end then stays alone, and is left
 * to TCP. reason: why the end will never join.
 */
static inline struct end *keep(struct bpf_sock_ops *ops, struct bpf_sock *sk, struct new_end *new_end, u32 reason)
{
	enum places places = find_place(reason != NO_REASON);
	struct end *end;

	if (places != PLACE)
		want_sweep(SWEEP_NOW);
	if (places == NO_PLACE)
		return NULL;
	if (new_end->active) {
		/* Not the listener's. */
		new_end->pid = 0;
		__builtin_memset(new_end->comm, 0, sizeof(new_end->comm));
		note_program(&new_end->pid, new_end->comm);
	}
	new_end->cookie = bpf_get_socket_cookie(ops);
	end = sa_ends.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!end)
		return NULL;
	begin(end, new_end);
	count_kept(1, reason != NO_REASON);
	end->reason = reason;
	end->state = reason ? LEFT : CONNECTING;
	return end;
}

/*
 * Keeps what is known of a new end, if a target covers it. NULL if none does, if there is no place, or if the end
 * is only kept to be listed, with a reason that was counted before.
 */
static inline struct end *on_new_end(struct bpf_sock_ops *ops, struct bpf_sock *sk, u64 sock,
				     struct answer *answer)
{
	struct new_end new_end = {.sock = sock, .active = ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB};
	struct peer_entry *connecting = NULL;
	u32 counted = NO_REASON, reason = NO_REASON;
	struct answering answering = {};
	struct end *end;

	read_flow(sock, &new_end.own_flow);
	new_end.slot = slot_of_cgroup(READ_U64(sock, OFFSET_sock_cgroup));
	if (!is_local(&new_end.own_flow)) {
		if (new_end.slot)
			count(new_end.slot, NOT_LOCAL, 1);
		return NULL;
	}
	mirror(&new_end.own_flow, &new_end.peer_flow);
	if (!new_end.active) {
		connecting = entry_of_connecting(&new_end, &answer->cookie);
		if (connecting) {
			counted = noted(connecting->refused, answer->cookie);
		} else {
			if (!new_end.slot)
				return NULL;
			count(new_end.slot, CLIENT_UNSEEN, 1);
			counted = CLIENT_UNSEEN;
		}
	}
	/* One that is only kept to be listed is asked for its name. */
	if (!counted || new_end.slot)
		ask_listener(&new_end, &answering);
	if (connecting && !counted)
		counted = reason_against_accepting(&new_end, connecting, answer->cookie);
	if (connecting && !counted) {
		new_end.slot = connecting->slot;
		new_end.generation = connecting->generation;
	} else if (!find_generation(&new_end)) {
		return NULL;
	}
	if (!counted)
		reason = new_end.active ? reason_against_connecting(&new_end, &answering) : reason_against(sock);
	end = keep(ops, sk, &new_end, counted ? counted : reason);
	if (!end) {
		if (!reason)
			reason = NOT_KEPT;
		turn_away(new_end.slot, counted ? NO_REASON : reason);
		if (connecting && !counted)
			connecting->refused = note(answer->cookie, reason);
		return NULL;
	}
	answer->reason = reason;
	return counted ? NULL : end;
}

static inline struct end *on_active_established(struct bpf_sock_ops *ops, struct bpf_sock *sk, u32 *reason)
{
	struct end *end = sa_ends.sk_storage_get(sk, 0, 0);
	struct target *target;

	if (!end || end->state != CONNECTING)
		return NULL;
	target = sa_targets.lookup(&end->slot);
	/* The target may have been disabled since connect(). */
	if (!is_enabled(target, end))
		*reason = DRAINED;
	/* The SYN and its data established the accepting end before that could find this one. */
	else if (ops->data_segs_out)
		*reason = FAST_OPEN;
	return end;
}

/*
 * Forgets an end that is closed. The kernel itself takes the socket out of the map. Returns 1 if the end had
 * joined, so that an event should be reported.
 */
static inline int on_close(struct end *end)
{
	struct flow key = end->own_flow;
	struct peer_entry *entry = sa_peers.lookup(&key);

	if (entry && entry->cookie == end->cookie) {
		/* A walk that judged it has noted what kept it out so far. */
		if (end->state == CANDIDATE && end->active && !noted(entry->refused, end->cookie) && !end->pauses)
			count(end->slot, end->reason ? end->reason : SHORT, 1);
		sa_peers.delete(&key);
	}
	if (end->state != JOINED && !(end->state == CANDIDATE && end->pauses)) {
		end->state = LEFT;
		return 0;
	}
	end->state = LEFT;
	/* The daemon may be waiting for the last end that drains. */
	if (end->marked && end->in_map)
		want_sweep(SWEEP_NOW);
	count(end->slot, CONNECTIONS_CLOSED, 1);
	return 1;
}

/* Returns the end if an event should be reported, NULL otherwise. */
static inline struct end *on_state(struct bpf_sock_ops *ops, struct bpf_sock *sk, u64 sock)
{
	struct end *end;

	if (ops->args[0] == TCP_LISTEN) {
		forget_listener(sock);
		return NULL;
	}
	end = sa_ends.sk_storage_get(sk, 0, 0);
	if (!end)
		return NULL;
	count_tcp_bytes(end, READ_U32(sock, OFFSET_tcp_sock_write_seq));
	if (ops->args[1] == TCP_CLOSE)
		return on_close(end) ? end : NULL;
	end->fin_sent = 1;
	return NULL;
}

/*
 * The kernel calls this for many events of every TCP socket. Reject the others first: sockets outside all targets
 * pay for it.
 */
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

/* Returns 1 always: sock_ops programs of somebody else would take any other value for their own answer. */
int sockaccel_join(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk;
	struct end *end = NULL;
	struct answer answer = {};
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
		on_listen(ops, sock);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		forget_earlier(sk, sock);
		/* fallthrough */
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		end = on_new_end(ops, sk, sock, &answer);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		end = on_active_established(ops, sk, &answer.reason);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		end = on_state(ops, sk, sock);
		break;
	}
	if (!end)
		return 1;
	if (ops->op != BPF_SOCK_OPS_TCP_CONNECT_CB && ops->op != BPF_SOCK_OPS_STATE_CB && !answer.reason)
		answer.reason = become_candidate(ops, end, sock);
	if (answer.reason)
		refuse(end, answer.reason, answer.cookie);
	/* The only call for all callbacks, see report(). */
	if (answer.reason || ops->op == BPF_SOCK_OPS_STATE_CB)
		report(end, answer.reason ? EVENT_REFUSED : EVENT_CLOSED, answer.reason);
	return 1;
}
