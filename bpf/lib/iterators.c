/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What walks have in common (BPF iterators), and those over the open files of all tasks. */
#include "lib/sock.h"

struct bpf_iter_meta;
struct sock;

/* The first member of struct bpf_iter_meta: where a walk prints to. */
struct seq_file_of_meta {
	struct seq_file *seq;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file __attribute__((aligned(8)));
};

/* The IPv4 or IPv6 socket that an open file is, or NULL. */
static inline struct sock *internet_socket(struct file *file)
{
	struct socket *socket = bpf_sock_from_file(file);
	struct sock *sk;
	u16 family;

	if (!socket)
		return NULL;
	/* Read directly: the verifier takes the result of a probe for a number, not for a socket. */
	sk = *(struct sock **)((void *)socket + OFFSET_socket_sk);
	if (!sk)
		return NULL;
	family = READ_AS(u16, sk, OFFSET_sock_family);
	return family == AF_INET || family == AF_INET6 ? sk : NULL;
}
