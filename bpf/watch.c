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
	if (end && end->in_map)
		end->received = RECEIVED | READ_U32(ctx[0], OFFSET_tcp_sock_copied_seq);
	return 0;
}
#endif
