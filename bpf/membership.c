/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Decides which connections are covered (sock_ops): both ends must be on this host, one of them must belong to a
 * target, and nothing about them may be what a sockmap would break. The connecting end decides: in connect() where
 * its addresses say that the other end is on this host, otherwise when the connection is established. Then both ends
 * become candidates, by keys that only the two of them know. A walk lets those join that turn out to be suitable
 * (judge.c).
 */
#include "lib/sock.h"

/*
 * What a callback finds out. own_key, peer_key: of an established end. first: what the other end has left for it, if
 * that was established first, and cookie: that of the other end, because the entry may be another one's by now.
 * reason: why the end stays with TCP, not counted yet.
 */
struct answer {
	struct pair_key own_key;
	struct pair_key peer_key;
	struct peer_entry *first;
	u64 cookie;
	u32 reason;
	u32 pad;
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
 * A socket can be disconnected (AF_UNSPEC) and connect anew, with its cookie. The kernel keeps it in the map under
 * the old key, and bytes that it has not read belong to the old connection. If it is no member, because it failed to
 * connect or has left, the key may be another socket's by now and must not be touched.
 */
static inline void forget_earlier(struct bpf_sock *sk, u64 sock)
{
	struct end *end = sa_ends.sk_storage_get(sk, 0, 0);
	struct peer_entry *entry;
	struct pair_key key;

	if (!end)
		return;
	swap_key(&end->peer_key, &key);
	if (end->in_map && sock_psock(sock))
		sa_members.delete(&key);
	/* Of an adopted end nobody has told that it was disconnected. */
	entry = sa_peers.lookup(&key);
	if (entry && entry->cookie == end->cookie)
		sa_peers.delete(&key);
	if (end->marked)
		want_sweep(SWEEP_NOW);
	sa_ends.sk_storage_delete(sk);
}

static inline u32 reason_against_connecting(const struct new_end *new_end, u32 mptcp)
{
	u32 reason = reason_against(new_end->sock);
	const struct flow *flow = &new_end->own_flow;

	if (reason)
		return reason;
	if (mptcp)
		return MPTCP;
	if (is_excluded(new_end->slot, flow, READ_U32(new_end->sock, OFFSET_sock_uid)))
		return EXCLUDED;
	if (flow->local_port == flow->remote_port && same_address(flow->local, flow->remote))
		return SELF_CONNECT;
	return new_end->knowledge & KNOWN_HURT ? KNOWN_PROGRAM : NO_REASON;
}

/* Whether the SYN of a connecting end had data, and established the accepting end with them (TCP Fast Open). */
static inline int syn_had_data(u64 sock)
{
	return READ_U64(sock, OFFSET_tcp_sock_bytes_acked) > 1;
}

/*
 * Finds out the key of an end that is established now, and whether the other end was established before. Returns what
 * connect() kept of a connecting end. Where that kept nothing only Fast Open lets the accepting end be the first.
 */
static inline struct end *on_established(struct bpf_sock *sk, u64 sock, u32 active, struct answer *answer)
{
	struct end *end = active ? sa_ends.sk_storage_get(sk, 0, 0) : NULL;
	struct peer_entry *first;
	u64 cookie;

	read_key(sock, active, &answer->own_key);
	swap_key(&answer->own_key, &answer->peer_key);
	if (active && !end && !syn_had_data(sock))
		return NULL;
	first = sa_peers.lookup(&answer->peer_key);
	/* One that names its peer has met it. */
	if (!first || first->active == active || first->peer_cookie)
		return end;
	cookie = first->cookie;
	if (sock_cookie(first->sock) != cookie)
		return end;
	answer->cookie = cookie;
	answer->first = first;
	return end;
}

/*
 * Why an end and the one that was established first may not meet, because of where they are; judge.c has the why. slot:
 * of the target that has the end's cgroup, or its listener.
 */
static inline u32 reason_against_meeting(u64 sock, u32 slot, struct peer_entry *first)
{
	return reason_in_namespaces(sock, first->sock, slot, slot == first->slot && !first->by_listener);
}

/* Lets the other end find an established end. Returns NO_REASON, or why the end cannot be a candidate. */
static inline u32 become_candidate(struct bpf_sock_ops *ops, struct end *end, u64 sock)
{
	struct target *target = target_of(end);
	u32 reason = target ? leave_entry(end, sock) : MAP_FULL;

	if (reason)
		return reason;
	judge_after(end, target->join_after_ns);
	/* Written last: a walk may be at this end now, and relies on all of the above when it sees CANDIDATE. */
	barrier();
	end->state = CANDIDATE;
	watch_state(ops);
	want_sweep(SWEEP_LATER);
	return NO_REASON;
}

/*
 * Leaves a connection to TCP, and tells the end that was established first, if there is one. cookie: of that end.
 */
static inline void refuse(struct end *end, u32 reason, u64 cookie)
{
	tell_other(end, cookie, reason);
	if (end->state != LEFT)
		count_kept(0, 1);
	end->state = LEFT;
	end->reason = reason;
	count(end->slot, reason, 1);
}

/* Tells the accepting end why its connection stays with TCP. It may be established already (TCP Fast Open). */
static inline void tell_accepting(struct answer *answer, u32 reason)
{
	if (answer->first)
		answer->first->refused = note(answer->cookie, reason);
	else
		sa_refusals.update(&answer->own_key, &reason);
}

/* What the connecting end has told of an accepting one that is established now; NO_REASON if nothing. */
static inline u32 told_by_connecting(struct pair_key *peer_key)
{
	u32 *told = sa_refusals.lookup(peer_key), reason = told ? *told : NO_REASON;

	if (told)
		sa_refusals.delete(peer_key);
	return reason;
}

/*
 * Asks the listener that answers the connection for its program and, if the end's own cgroup has no target, for
 * its. A connecting end is told of no program: where addresses are translated, such as those of a port that a container
 * publishes, another one may answer. Returns whether the listener is one of Multipath TCP.
 */
static inline u32 ask_listener(struct new_end *new_end)
{
	const struct flow *flow = &new_end->own_flow;
	struct listener_key key = {};
	struct listener listener = {};

	if (!listener_for(flow->netns, new_end->active ? flow->remote : flow->local,
			  new_end->active ? flow->remote_port : flow->local_port, &key, &listener))
		return 0;
	if (!new_end->active)
		new_end->knowledge = knowledge_of(&listener.executable, listener.comm);
	new_end->pid = listener.pid;
	__builtin_memcpy(new_end->comm, listener.comm, sizeof(new_end->comm));
	if (!new_end->slot && (new_end->active || is_child(new_end->sock, &listener))) {
		new_end->slot = slot_of_listener(&listener, &key);
		new_end->by_listener = 1;
	}
	return listener.mptcp;
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

/* Whether no watcher sees how the programs of a target read, so that they must be known by their names. */
static inline int is_blind(u32 slot)
{
	struct target *target = sa_targets.lookup(&slot);

	return target && !(target->flags & TARGET_RECV_WATCHED);
}

/*
 * What the kernel calls for, read anew: what was read before is a known value on each path, and the verifier would explore
 * what lies between for each of them.
 */
static inline u32 op_of(struct bpf_sock_ops *ops)
{
	return *(volatile u32 *)&ops->op;
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
		if (op_of(ops) == BPF_SOCK_OPS_TCP_CONNECT_CB)
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

/* Whether an accepting end is established before the connecting one, by what came with the SYN. */
static inline int is_by_fast_open(u64 sock)
{
	return READ_U64(sock, OFFSET_tcp_sock_fastopen_request) != 0;
}

/*
 * What is said of an accepting end that has met no connecting one, or of a connecting one of whose connection nothing
 * was kept yet; NO_REASON if it can be a candidate. It is counted.
 */
static inline u32 reason_against_first(const struct new_end *new_end)
{
	u32 is_near = is_local(&new_end->own_flow) || sock_may_be_near(new_end->sock), reason = NO_REASON;

	if (!new_end->slot)
		return UNCOUNTED;
	if (!new_end->active && !is_by_fast_open(new_end->sock))
		reason = is_near ? CLIENT_UNSEEN : NOT_LOCAL;
	else if (!is_near && !allows_other_namespaces(new_end->slot))
		reason = NOT_LOCAL;
	if (reason)
		count(new_end->slot, reason, 1);
	return reason;
}

/*
 * Keeps what is known of a new end, if a target covers it. NULL if none does, if there is no place, or if the end
 * is only kept to be listed, with a reason that was counted before.
 */
static inline struct end *on_new_end(u32 op, struct bpf_sock_ops *ops, struct bpf_sock *sk, u64 sock,
				     struct answer *answer)
{
	u32 counted = NO_REASON, reason = NO_REASON, is_established = op != BPF_SOCK_OPS_TCP_CONNECT_CB;
	u32 mptcp = 0;
	struct peer_entry *first = answer->first;
	struct new_end new_end = {
		.sock = sock,
		.active = op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
		.own_key = answer->own_key,
		.peer_key = answer->peer_key,
		.peer_cookie = answer->cookie,
	};
	struct end *end;

	read_flow(sock, &new_end.own_flow);
	/* Whose addresses say that it is local, of that was decided in connect(). */
	if (new_end.active && is_local(&new_end.own_flow) == is_established)
		return NULL;
	new_end.slot = slot_of_cgroup(READ_U64(sock, OFFSET_sock_cgroup));
	if (first)
		counted = noted(first->refused, answer->cookie);
	/* Sockets outside all targets accept connections, too, and must not pay for this. */
	else if (!new_end.active && new_end.slot)
		counted = told_by_connecting(&answer->peer_key);
	/* One that is only kept to be listed is asked for its name. */
	if (new_end.active ? !is_established : first || new_end.slot || is_by_fast_open(sock))
		mptcp = ask_listener(&new_end);
	/* With SO_REUSEPORT another listener than the one that was found may answer, outside every target. */
	if (!counted && first && first->by_listener && new_end.slot != first->slot) {
		first->refused = note(answer->cookie, UNCOUNTED);
		counted = LONELY;
	}
	if (is_established && !first && !counted)
		counted = reason_against_first(&new_end);
	if (counted == UNCOUNTED || counted == NOT_LOCAL)
		return NULL;
	if (first && !counted) {
		reason = reason_against_meeting(sock, new_end.slot, first);
		new_end.slot = first->slot;
		new_end.generation = first->generation;
	} else if (!find_generation(&new_end)) {
		return NULL;
	}
	/* Later the kernel may call this one in the context of any other program. */
	if (!counted && !reason && op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		new_end.knowledge = knowledge_of_current();
	/*
	 * Read onto themselves: the verifier forgets on which of many paths they were written, and explores what
	 * follows, with the loop of is_excluded(), for fewer of them.
	 */
	probe_read(&new_end, sizeof(new_end), &new_end);
	probe_read(&mptcp, sizeof(mptcp), &mptcp);
	if (!counted && !reason)
		reason = new_end.active ? reason_against_connecting(&new_end, mptcp) : reason_against(sock);
	if (!counted && !reason && !new_end.active && new_end.knowledge & KNOWN_HURT)
		reason = KNOWN_PROGRAM;
	end = keep(ops, sk, &new_end, counted ? counted : reason);
	if (!end) {
		if (!reason)
			reason = NOT_KEPT;
		turn_away(new_end.slot, counted ? NO_REASON : reason);
		if (first && !counted)
			first->refused = note(answer->cookie, reason);
		return NULL;
	}
	/* Only connect() runs in the context of the program that connects. */
	if (new_end.active && op_of(ops) != BPF_SOCK_OPS_TCP_CONNECT_CB && is_blind(new_end.slot))
		end->owner_unknown = 1;
	/* A walk over open files may find the client. */
	if (counted == CLIENT_UNSEEN)
		want_sweep(SWEEP_LATER);
	answer->reason = reason;
	return counted ? NULL : end;
}

/* A connecting end of which something was kept in connect(). */
static inline struct end *on_active_established(struct end *end, u64 sock, struct answer *answer)
{
	struct peer_entry *first = answer->first;

	/* Listings put the two ends together by it, also those that have LEFT. */
	end->peer_key = answer->peer_key;
	if (end->state != CONNECTING) {
		tell_accepting(answer, end->reason);
		return NULL;
	}
	/* The target may have been disabled since connect(). */
	if (!is_enabled(target_of(end), end)) {
		answer->reason = DRAINED;
	} else if (first) {
		answer->reason = reason_against_meeting(sock, end->slot, first);
		end->peer_cookie = answer->cookie;
		end->slot = first->slot;
		end->generation = first->generation;
	} else if (syn_had_data(sock)) {
		answer->reason = FAST_OPEN;
	}
	return end;
}

/* Why a connecting end that is closed as a candidate has not joined. */
static inline u32 reason_of_short(struct end *end, u64 sock)
{
	if (end->reason)
		return end->reason;
	return sock_is_local(sock) || sa_peers.lookup(&end->peer_key) ? SHORT : NOT_LOCAL;
}

/*
 * An end that no program has accepted is freed without a close(), and another program can switch off the callback that
 * would tell of it. So what it left for its peer goes with that.
 */
static inline void forget_unaccepted(struct end *end)
{
	struct pair_key key = end->peer_key;
	struct peer_entry *other = sa_peers.lookup(&key);
	u64 cookie;

	if (!other)
		return;
	cookie = other->cookie;
	if (cookie != end->peer_cookie && other->peer_cookie != end->cookie)
		return;
	if (sock_cookie(other->sock) != cookie || !sock_file(other->sock))
		sa_peers.delete(&key);
}

/*
 * Forgets an end that is closed. The kernel itself takes the socket out of the map. Returns 1 if the end had
 * joined, so that an event should be reported.
 */
static inline int on_close(struct end *end, u64 sock)
{
	struct peer_entry *entry;
	struct pair_key key;

	swap_key(&end->peer_key, &key);
	entry = sa_peers.lookup(&key);
	if (entry && entry->cookie == end->cookie) {
		/* A walk that judged it has noted what kept it out so far. */
		if (end->state == CANDIDATE && end->active && !noted(entry->refused, end->cookie) && !end->pauses)
			count(end->slot, reason_of_short(end, sock), 1);
		sa_peers.delete(&key);
	}
	forget_unaccepted(end);
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
		return on_close(end, sock) ? end : NULL;
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
	u32 op = ops->op;
	u64 sock;

	if (!is_for_us(ops))
		return 1;
	sk = ops->sk;
	if (!sk)
		return 1;
	sock = (u64)bpf_skc_to_tcp_sock(sk);
	if (!sock)
		return 1;
	if (op == BPF_SOCK_OPS_TCP_LISTEN_CB) {
		on_listen(ops, sock);
		return 1;
	}
	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		forget_earlier(sk, sock);
	else if (op == BPF_SOCK_OPS_STATE_CB)
		end = on_state(ops, sk, sock);
	else
		end = on_established(sk, sock, op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, &answer);
	if (op != BPF_SOCK_OPS_STATE_CB)
		end = end ? on_active_established(end, sock, &answer) : on_new_end(op, ops, sk, sock, &answer);
	if (!end)
		return 1;
	op = op_of(ops);
	if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_STATE_CB && !answer.reason)
		answer.reason = become_candidate(ops, end, sock);
	if (answer.reason)
		refuse(end, answer.reason, answer.cookie);
	if (answer.reason && op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && !answer.first)
		tell_accepting(&answer, answer.reason);
	/* The only call for all callbacks, see report(). */
	if (answer.reason || op == BPF_SOCK_OPS_STATE_CB)
		report(end, sock, answer.reason ? EVENT_REFUSED : EVENT_CLOSED, answer.reason);
	return 1;
}
