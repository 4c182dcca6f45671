/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Searches the open files of all tasks, in every network namespace, for sockets that no callback told of:
 * listeners that were there before sockaccel, and connections that were made before their cgroup was covered. The
 * same walk serves audits (audit.c): the kernel takes one program of a name for each kind of walk.
 */
#include "lib/sock.h"

/*
 * The key of an end whose connection is older than its target, as if it had accepted it. The numbers change while they
 * are read: two readings must agree. Returns 0 if they do not.
 */
static inline int read_steady_key(u64 sock, struct pair_key *key)
{
	struct pair_key again;

#pragma clang loop unroll(disable)
	for (int look = 0; look < 8; look++) {
		read_key(sock, 0, key);
		barrier();
		read_key(sock, 0, &again);
		if (key->sent == again.sent && key->received == again.received)
			return 1;
	}
	return 0;
}

/* The target that has an end: by its own cgroup or, for one that was accepted, by a listener that serves it. */
static inline u32 slot_of_end(u64 sock, const struct flow *flow)
{
	u32 slot = slot_of_cgroup(READ_U64(sock, OFFSET_sock_cgroup));
	struct listener_key key = {};
	struct listener listener = {};

	if (slot || !listener_for(flow->netns, flow->local, flow->local_port, &key, &listener) ||
	    !is_child(sock, &listener))
		return slot;
	return slot_of_listener(&listener, &key);
}

/*
 * Notes an end for its peer to find. Two that claim the same are neither. Returns 0 if there is no room.
 */
static inline int note_found(struct pair_key *key, struct found *found)
{
	int error = sa_found.insert(key, found);
	struct found *other = error == -EEXIST ? sa_found.lookup(key) : NULL;

	if (other && other->cookie != found->cookie)
		other->reason = TWICE_CLAIMED;
	return !error || other;
}

/*
 * Finds the other end of a connection. Which end has connected is told by the keys: a connecting end has counted its
 * SYN as acknowledged, so its key was read as one too low. Sets active and the keys.
 */
static inline struct found *find_other(struct pair_key *read, struct new_end *new_end)
{
	struct found *other;

	new_end->own_key = *read;
	swap_key(read, &new_end->peer_key);
	new_end->peer_key.sent--;
	other = sa_found.lookup(&new_end->peer_key);
	if (other) {
		new_end->peer_key.sent++;
		return other;
	}
	new_end->active = 1;
	new_end->own_key.sent++;
	swap_key(&new_end->own_key, &new_end->peer_key);
	return sa_found.lookup(&new_end->peer_key);
}

/* Why two ends that were found stay with TCP for good. */
static inline u32 reason_against_adopting(const struct new_end *new_end, u32 slot, const struct found *own,
					  const struct found *other)
{
	if (own->reason || other->reason)
		return own->reason ? own->reason : other->reason;
	if (sock_cookie(other->sock) != other->cookie)
		return LONELY;
	return reason_in_namespaces(new_end->sock, other->sock, slot, own->slot == other->slot);
}

/* Makes an end a candidate, or keeps it to be listed with the reason why it is none. Returns that reason. */
static inline u32 adopt(struct sock *sk, struct new_end *new_end, u32 reason, u32 left_before)
{
	struct end *end;

	if (find_place(reason != NO_REASON) == NO_PLACE) {
		turn_away(new_end->slot, NO_REASON);
		return NOT_KEPT;
	}
	end = sa_ends.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	/* Its owner may have disconnected it and connected it anew meanwhile. */
	if (!end || end->cookie || sock_state(new_end->sock) != TCP_ESTABLISHED)
		return NOT_KEPT;
	begin(end, new_end);
	end->adopted = 1;
	end->left_before = left_before;
	if (!reason)
		reason = leave_entry(end, new_end->sock);
	count_kept(1, reason != NO_REASON);
	end->reason = reason;
	if (reason) {
		end->state = LEFT;
		tell_other(end, end->peer_cookie, reason);
		if (new_end->active && reason != left_before)
			count(new_end->slot, reason, 1);
		return reason;
	}
	judge_after(end, 0);
	barrier();
	end->state = CANDIDATE;
	want_sweep(SWEEP_NOW);
	return NO_REASON;
}

/* Whether another policy may let in what stays with TCP for this reason; the other end of what a policy keeps out is lonely. */
static inline int is_by_policy(u32 reason)
{
	return reason == EXCLUDED || reason == OTHER_NAMESPACE || reason == BLOCKING_END || reason == MISSED ||
	       reason == LONELY;
}

/*
 * Whether what is kept of an end is of no use any more: its target was disabled, or has another policy now, or its
 * client was not seen, and may be found. A call that began while it was a member would still hold its psock, see
 * came_back(). One that another sockmap owns has a psock, too; its peer must find it all the same, to be told why both
 * stay with TCP.
 */
static inline int is_over(struct end *end, u64 sock)
{
	struct target *target = target_of(end);

	if (end->state != LEFT || end->in_map || (sock_psock(sock) && end->reason != FOREIGN_SOCKMAP))
		return 0;
	if (!is_enabled(target, end))
		return 1;
	return end->reason == CLIENT_UNSEEN || (end->policy != (u8)target->policy && is_by_policy(end->reason));
}

/* Whether the end of a socket would be noticed. */
static inline int is_in_reach(u64 sock)
{
	int zero = 0;
	struct settings *settings = sa_settings.lookup(&zero);

	return settings && is_below(READ_U64(sock, OFFSET_sock_cgroup), settings->root);
}

/* A client that was looked for in vain is looked for no more. */
static inline void note_client(struct end *accepting, u32 was_found)
{
	int zero = 0;
	struct settings *settings = sa_settings.lookup(&zero);

	accepting->looks = 1;
	if (settings && was_found)
		settings->found_clients++;
}

/*
 * An end of an established connection that is older than its target, or than its target's policy. The first walk notes
 * those that targets have. The others find out who their other ends are, which need not belong to a target. earlier:
 * what is kept of it and of no use any more, or NULL.
 */
static inline void on_open_end(struct sock *sk, struct end *earlier, u64 task, u32 look, u32 pid, const char *comm)
{
	struct new_end new_end = {.sock = (u64)sk, .pid = pid};
	struct found own = {.sock = (u64)sk};
	u32 reason, left_before = NO_REASON;
	struct executable executable;
	struct pair_key key;
	struct target *target;
	struct found *other;

	if (!read_steady_key(new_end.sock, &key))
		return;
	read_flow(new_end.sock, &new_end.own_flow);
	own.slot = slot_of_end(new_end.sock, &new_end.own_flow);
	if (look == LOOK_SEARCH && !own.slot)
		return;
	__builtin_memcpy(new_end.comm, comm, sizeof(new_end.comm));
	read_executable(file_of_task(task), &executable);
	new_end.knowledge = knowledge_of(&executable, comm);
	/* It opens sockets for others, and the one that it is for has it too. */
	if (new_end.knowledge & KNOWN_LISTENS)
		return;
	own.reason = reason_against(new_end.sock);
	if (!own.reason && new_end.knowledge & KNOWN_HURT)
		own.reason = KNOWN_PROGRAM;
	/* Asked by helper: the kernel gives a socket its cookie when somebody asks for it first. */
	own.cookie = bpf_get_socket_cookie(sk);
	if (look == LOOK_SEARCH) {
		note_found(&key, &own);
		return;
	}
	other = find_other(&key, &new_end);
	if (!other && !own.slot)
		return;
	if (other && !own.slot) {
		if (!is_in_reach(new_end.sock))
			return;
		note_found(&key, &own);
	}
	new_end.slot = own.slot;
	/* As for a new connection: that of the connecting end counts, if there is one. */
	if (other && other->slot && (!new_end.active || !own.slot))
		new_end.slot = other->slot;
	target = sa_targets.lookup(&new_end.slot);
	if (!target || !(target->flags & TARGET_ON) || !(target->flags & TARGET_ADOPTS))
		return;
	if (!other && look != LOOK_ADOPT_LAST)
		return;
	if (earlier && is_enabled(target_of(earlier), earlier)) {
		note_client(earlier, other && earlier->reason == CLIENT_UNSEEN);
		if (!other)
			return;
		left_before = earlier->reason;
	}
	if (!other && !is_local(&new_end.own_flow))
		return;
	new_end.generation = target->generation;
	new_end.cookie = own.cookie;
	reason = MISSED;
	if (other) {
		new_end.peer_cookie = other->cookie;
		reason = reason_against_adopting(&new_end, new_end.slot, &own, other);
	}
	/* It is kept no more, and gives its place back, though its socket lives. */
	if (earlier && !sa_ends.sk_storage_delete(sk))
		count_kept(-1, -1);
	reason = adopt(sk, &new_end, reason, left_before);
	/* The walk has yet to come to its other end. */
	other = reason == TWICE_CLAIMED ? sa_found.lookup(&key) : NULL;
	if (other)
		other->reason = reason;
}

/* Notes the program that has a socket, where neither its connect() nor its listener told. */
static inline void note_owner(struct sock *sk, u64 task, u32 pid, const char *comm)
{
	struct end *end = sa_ends.sk_storage_get(sk, 0, 0);
	struct executable executable;
	u32 knowledge;

	if (!end || !end->owner_unknown)
		return;
	read_executable(file_of_task(task), &executable);
	knowledge = knowledge_of(&executable, comm);
	/* It is about to hand the socket on. */
	if (knowledge & KNOWN_LISTENS)
		return;
	if (knowledge & KNOWN_HURT)
		end->seen = KNOWN_PROGRAM;
	end->pid = pid;
	__builtin_memcpy(end->comm, comm, sizeof(end->comm));
	end->owner_unknown = 0;
}

int bpf_iter__task_file(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct audit *audit;
	char comm[16] = {};
	u32 pid, look;
	u16 protocol;
	int zero = 0;
	struct sock *sk;
	struct end *end;
	u64 sock;

	if (!task || !file)
		return 0;
	sk = internet_socket(file);
	if (!sk)
		return 0;
	sock = (u64)sk;
	protocol = READ_AS(u16, sock, OFFSET_sock_protocol);
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP)
		return 0;
	audit = sa_audit.lookup(&zero);
	look = audit ? audit->look : LOOK_SEARCH;
	if (audit && look > LOOK_ADOPT_LAST) {
		if (protocol == IPPROTO_TCP)
			tell_audit(((struct seq_file_of_meta *)ctx->meta)->seq, (u64)task, (u64)file, sk, audit);
		return 0;
	}
	pid = READ_U32(task, OFFSET_task_tgid);
	if (look == LOOK_SEARCH && sock_state(sock) == TCP_LISTEN)
		remember_listener(sock, (u64)task, protocol == IPPROTO_MPTCP);
	if (sock_state(sock) != TCP_ESTABLISHED || protocol != IPPROTO_TCP)
		return 0;
	read_name((u64)task, comm);
	if (look == LOOK_SEARCH)
		note_owner(sk, (u64)task, pid, comm);
	end = sa_ends.sk_storage_get(sk, 0, 0);
	if (!end || is_over(end, sock))
		on_open_end(sk, end, (u64)task, look, pid, comm);
	return 0;
}
