/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Walks the open files of all tasks, in every network namespace, for listeners that were there before sockaccel
 * was: those that no TCP_LISTEN callback told of.
 */

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file __attribute__((aligned(8)));
};

int bpf_iter__task_file(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	char comm[16] = {};
	u64 socket, sock;
	u16 family, protocol;

	if (!task || !file)
		return 0;
	socket = (u64)bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sock = READ_U64(socket, OFFSET_socket_sk);
	if (!sock || sock_state(sock) != TCP_LISTEN)
		return 0;
	family = READ_AS(u16, sock, OFFSET_sock_family);
	protocol = READ_AS(u16, sock, OFFSET_sock_protocol);
	if (family != AF_INET && family != AF_INET6)
		return 0;
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP)
		return 0;
	probe_read(comm, sizeof(comm), (void *)((u64)task + OFFSET_task_comm));
	remember_listener(sock, READ_U32(task, OFFSET_task_tgid), comm, protocol == IPPROTO_MPTCP);
	return 0;
}
