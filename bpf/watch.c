/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The watchers: they see what a program does with a member's socket. The kernel calls them when one of its own
 * functions is called or returns (WATCHERS in sockaccel/kernel/watched.py). ctx has the function's arguments and,
 * for one that returns, its return value behind them (ARGUMENTS_function).
 *
 * None may be relied on to run: the kernel leaves a watcher out while another task of the CPU is interrupted inside
 * the same one. So what a watcher saw may allow something, and what it did not see may not.
 */

/* include/linux/socket.h */
#define MSG_PEEK 2
#define MSG_ERRQUEUE 0x2000

#ifdef FUNCTION_tcp_bpf_recvmsg
/* recv() of a member has returned: notes up to where it has read what TCP carried. */
int sockaccel_recv(u64 *ctx)
{
	s32 returned = ctx[ARGUMENTS_tcp_bpf_recvmsg];
	u32 flags = ctx[3];
	struct end *end;

	if (returned <= 0 || flags & (MSG_PEEK | MSG_ERRQUEUE))
		return 0;
	end = sa_ends.sk_storage_get((void *)ctx[0], 0, 0);
	if (end && end->in_map && !end->spliced)
		end->received = RECEIVED | READ_U32(ctx[0], OFFSET_tcp_sock_copied_seq);
	return 0;
}
#endif

#ifdef FUNCTION_tcp_splice_read
/*
 * splice() or sendfile() out of a socket is called, which finds what TCP carried and not what was redirected. The end
 * leaves the map. What it holds of redirected bytes may be lost, so nothing may come after them (would_overtake()).
 */
int sockaccel_splice(u64 *ctx)
{
	/* Read directly: the verifier takes the result of a probe for a number, not for a socket. */
	struct sock *sk = *(struct sock **)((void *)ctx[0] + OFFSET_socket_sk);
	struct end *end;

	if (!sk)
		return 0;
	end = sa_ends.sk_storage_get(sk, 0, 0);
	if (!end || (end->state == LEFT && !end->in_map))
		return 0;
	if (!end->spliced) {
		end->spliced = 1;
		end->received = 0;
		if (end->in_map)
			want_sweep(SWEEP_NOW);
	}
	if (!end->in_map || end->spliced_unread || !sock_holds_redirected((u64)sk))
		return 0;
	end->spliced_unread = 1;
	count(end->slot, SPLICE_UNREAD, 1);
	report(end, EVENT_BROKEN, SPLICE_UNREAD);
	return 0;
}
#endif
