/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Aborts the connections whose reader may miss redirected bytes (SPLICE_UNREAD): both ends get an error in place of a
 * stream that stops for ever. An iterator over the TCP sockets of the daemon's network namespace; the kernel holds
 * the lock of each socket meanwhile, which bpf_sock_destroy() needs. That is a function of kernels since 6.5.
 */
#include "lib/sock.h"

#ifdef KFUNC_sock_destroy
static int (*sock_destroy)(void *sk) = (void *)KFUNC_sock_destroy;

/* Whether the reader at the other end has missed redirected bytes. It may be in a namespace that is not walked. */
static inline int peer_missed_bytes(struct end *end)
{
	return end->peer_joined && end->redirected_messages && sock_cookie(end->peer_sock) == end->peer_cookie &&
	       READ_U8(end->peer_end, __builtin_offsetof(struct end, spliced_unread));
}

/* Prints a byte for each socket that it aborts. */
int sockaccel_abort(u64 *ctx)
{
	struct seq_file *seq = *(struct seq_file **)ctx[0];
	void *sk = (void *)ctx[1];
	struct end *end;
	char aborted = 1;

	if (!sk)
		return 0;
	end = sa_ends.sk_storage_get(sk, 0, 0);
	if (!end || !end->in_map || !(end->spliced_unread || peer_missed_bytes(end)))
		return 0;
	if (!sock_destroy(sk))
		bpf_seq_write(seq, &aborted, sizeof(aborted));
	return 0;
}
#endif
