/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Programs of somebody else on the same cgroup, as the tests have them: one that watches every connection and answers
 * a question of the kernel's, one that switches callbacks off, and one that puts ends into a sockmap of its own.
 */
#include <linux/types.h>
#include <uapi/linux/bpf.h>

#define TCP_CLOSE 7
#define TCP_LISTEN 10

/* What has been seen of each end, by its cookie. */
enum seen {
	ESTABLISHED = 1,
	ROUND_TRIP = 2,
	CLOSED = 4,
};

BPF_HASH(ends, u64, u32, 131072);
BPF_SOCKHASH(owned, u64, 1024);
BPF_ARRAY(messages, u64, 1);

static inline void note(struct bpf_sock_ops *ops, u32 what)
{
	u64 cookie = bpf_get_socket_cookie(ops);
	u32 nothing = 0, *seen = ends.lookup_or_try_init(&cookie, &nothing);

	if (seen)
		*seen |= what;
}

int watch(struct bpf_sock_ops *ops)
{
	switch (ops->op) {
	case BPF_SOCK_OPS_NEEDS_ECN:
		ops->reply = 1;
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		note(ops, ESTABLISHED);
		bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG |
						       BPF_SOCK_OPS_STATE_CB_FLAG);
		break;
	case BPF_SOCK_OPS_RTT_CB:
		note(ops, ROUND_TRIP);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		/* Not of a listener: sockaccel has the states of those that targets have told, to everybody. */
		if (ops->args[1] == TCP_CLOSE && ops->args[0] != TCP_LISTEN)
			note(ops, CLOSED);
		break;
	}
	return 1;
}

/* As a program does that takes the flags for its own. */
int rude(struct bpf_sock_ops *ops)
{
	if (ops->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB || ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		bpf_sock_ops_cb_flags_set(ops, 0);
	return 1;
}

static inline void own(struct bpf_sock_ops *ops)
{
	u64 cookie = bpf_get_socket_cookie(ops);

	owned.sock_hash_update(ops, &cookie, BPF_NOEXIST);
}

int own_connecting(struct bpf_sock_ops *ops)
{
	if (ops->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		own(ops);
	return 1;
}

int own_accepting(struct bpf_sock_ops *ops)
{
	if (ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		own(ops);
	return 1;
}

int own_both(struct bpf_sock_ops *ops)
{
	if (ops->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB || ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		own(ops);
	return 1;
}

int on_message(struct sk_msg_md *message)
{
	int zero = 0;
	u64 *count = messages.lookup(&zero);

	if (count)
		__sync_fetch_and_add(count, 1);
	return SK_PASS;
}
