/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Searches the open files of all tasks, in every network namespace, for sockets that no callback told of:
 * listeners that were there before sockaccel, and connections that were made before their cgroup was covered. The
 * same walk serves audits (audit.c): the kernel takes one program of a name for each kind of walk.
 */
#include "lib/sock.h"

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file __attribute__((aligned(8)));
};

/*
 * Whether the connection's other end was found before. When sa_found is full, some connections are counted twice.
 */
static inline u32 is_counted(const struct pair_key *own_key, const struct pair_key *peer_key)
{
	struct pair_key key = own_key->sent < peer_key->sent ? *own_key : *peer_key;
	u64 one = 1;

	return sa_found.insert(&key, &one) == -EEXIST;
}

/* Keeps an end to be listed. It cannot join: nobody knows how much of its connection waits unread. */
static inline void note_missed(struct sock *sk, u32 pid, const char *comm)
{
	struct new_end new_end = {.sock = (u64)sk, .pid = pid};
	struct listener_key key = {};
	struct listener listener = {};
	struct target *target;
	struct end *end;

	read_flow(new_end.sock, &new_end.own_flow);
	new_end.slot = slot_of_cgroup(READ_U64(new_end.sock, OFFSET_sock_cgroup));
	if (!new_end.slot || !is_local(&new_end.own_flow) || sa_ends.sk_storage_get(sk, 0, 0))
		return;
	target = sa_targets.lookup(&new_end.slot);
	if (!target || !(target->flags & TARGET_ON))
		return;
	if (find_place(1) == NO_PLACE) {
		turn_away(new_end.slot, NO_REASON);
		return;
	}
	end = sa_ends.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	/* Its owner may have disconnected it and connected it anew meanwhile. */
	if (!end || end->cookie || sock_state(new_end.sock) != TCP_ESTABLISHED)
		return;
	/* Asked by helper: the kernel gives a socket its cookie when somebody asks for it first. */
	new_end.cookie = bpf_get_socket_cookie(sk);
	new_end.generation = target->generation;
	new_end.active = !listener_for(new_end.own_flow.netns, new_end.own_flow.local, new_end.own_flow.local_port,
				       &key, &listener);
	read_key(new_end.sock, new_end.active, &new_end.own_key);
	swap_key(&new_end.own_key, &new_end.peer_key);
	__builtin_memcpy(new_end.comm, comm, sizeof(new_end.comm));
	begin(end, &new_end);
	count_kept(1, 1);
	end->reason = MISSED;
	end->state = LEFT;
	if (!is_counted(&new_end.own_key, &new_end.peer_key))
		count(new_end.slot, MISSED, 1);
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
	struct socket *socket;
	u16 family, protocol;
	struct audit *audit;
	char comm[16] = {};
	int zero = 0;
	struct sock *sk;
	u64 sock;
	u32 pid;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	/* Read directly: the verifier takes the result of a probe for a number, not for a socket. */
	sk = *(struct sock **)((void *)socket + OFFSET_socket_sk);
	if (!sk)
		return 0;
	sock = (u64)sk;
	family = READ_AS(u16, sock, OFFSET_sock_family);
	protocol = READ_AS(u16, sock, OFFSET_sock_protocol);
	if (family != AF_INET && family != AF_INET6)
		return 0;
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP)
		return 0;
	audit = sa_audit.lookup(&zero);
	if (audit && audit->look != LOOK_SEARCH) {
		if (protocol == IPPROTO_TCP)
			tell_audit(((struct seq_file_of_meta *)ctx->meta)->seq, (u64)task, (u64)file, sk, audit);
		return 0;
	}
	pid = READ_U32(task, OFFSET_task_tgid);
	read_name((u64)task, comm);
	if (sock_state(sock) == TCP_LISTEN)
		remember_listener(sock, (u64)task, protocol == IPPROTO_MPTCP);
	if (sock_state(sock) != TCP_ESTABLISHED || protocol != IPPROTO_TCP)
		return 0;
	note_owner(sk, (u64)task, pid, comm);
	note_missed(sk, pid, comm);
	return 0;
}
