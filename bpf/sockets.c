/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Walks the open files of all tasks, in every network namespace, for what no callback of the kernel's told of: sockets
 * that listened before sockaccel was there, and connections that were made before their cgroup was covered.
 */

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file __attribute__((aligned(8)));
};

/* Once for both ends; where it has met too many to remember, twice for some. */
static inline u32 is_met(const struct flow *flow, const struct flow *other)
{
	u32 swapped = flow->local_port > flow->remote_port ||
		      (flow->local_port == flow->remote_port && flow->local[3] > flow->remote[3]);
	struct flow key = swapped ? *other : *flow;
	u32 one = 1;

	return sa_missed.insert(&key, &one) == -EEXIST;
}

/* It can join no more: what it has sent and received since it was made is not known. */
static inline void note_missed(struct sock *sk, u32 pid, const char *comm)
{
	struct end end = {.sock = (u64)sk, .pid = pid};
	struct connection *connection;
	struct listener_key key = {};
	struct target *target;

	read_flow(end.sock, &end.flow);
	end.slot = slot_of_cgroup(READ_U64(end.sock, OFFSET_sock_cgroup));
	if (!end.slot || !is_local(&end.flow) || sa_connections.sk_storage_get(sk, 0, 0))
		return;
	target = sa_targets.lookup(&end.slot);
	if (!target || !(target->flags & TARGET_ON))
		return;
	connection = sa_connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	/* Its owner may have disconnected it and connected it anew meanwhile. */
	if (!connection || connection->cookie || sock_state(end.sock) != TCP_ESTABLISHED)
		return;
	mirror(&end.flow, &end.other);
	/* Until somebody asks, a socket has none. */
	end.cookie = bpf_get_socket_cookie(sk);
	end.generation = target->generation;
	end.active = !listener_for(&end.other, &key);
	__builtin_memcpy(end.comm, comm, sizeof(end.comm));
	begin(connection, &end);
	connection->reason = MISSED;
	connection->state = LEFT;
	if (!is_met(&end.flow, &end.other))
		count(end.slot, MISSED, 1);
}

int bpf_iter__task_file(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	u16 family, protocol;
	char comm[16] = {};
	struct sock *sk;
	u64 sock;
	u32 pid;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	/* Not by a probe, or the verifier would not take it for a socket. */
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
	pid = READ_U32(task, OFFSET_task_tgid);
	probe_read(comm, sizeof(comm), (void *)((u64)task + OFFSET_task_comm));
	if (sock_state(sock) == TCP_LISTEN)
		remember_listener(sock, pid, comm, protocol == IPPROTO_MPTCP);
	else if (sock_state(sock) == TCP_ESTABLISHED && protocol == IPPROTO_TCP)
		note_missed(sk, pid, comm);
	return 0;
}
