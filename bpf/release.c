/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sees the last close() of a socket's file (cgroup/sock_release, which inet_release() in net/ipv4/af_inet.c runs in the
 * task that closes). From then on nobody can read from the socket or write to it, and the kernel takes it out of the
 * map, also if it lives on to send what TCP still has. sockaccel_join hears of the end of a connection by callbacks
 * that another program can switch off, and that nobody switches on for a connection that was adopted.
 */
int sockaccel_release(struct bpf_sock *sk)
{
	struct end *end = sa_ends.sk_storage_get(sk, 0, 0);
	u64 sock = (u64)sk;
	u8 state;

	if (!end)
		return 1;
	if (end->state == LEFT) {
		forget_unaccepted(end);
		return 1;
	}
	state = sock_state(sock);
	/* A FIN has a sequence number too. */
	count_tcp_bytes(end, READ_U32(sock, OFFSET_tcp_sock_write_seq) -
				     (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT));
	if (on_close(end, sock))
		report(end, sock, EVENT_CLOSED, NO_REASON);
	return 1;
}
