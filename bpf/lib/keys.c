/* SPDX-License-Identifier: GPL-2.0-or-later */
/* By what the two ends of a connection find each other (struct pair_key). */

/*
 * The key of an end, which its whole life does not change: tcp_snd_una_update() and tcp_rcv_nxt_update() in
 * net/ipv4/tcp_input.c move both numbers of a pair together. active: whether it is the connecting end, which has
 * counted its SYN as acknowledged; the accepting one has not.
 */
static inline void read_key(u64 sock, u32 active, struct pair_key *key)
{
	key->sent = READ_U32(sock, OFFSET_tcp_sock_snd_una) - (u32)READ_U64(sock, OFFSET_tcp_sock_bytes_acked) +
		    active;
	key->received =
		READ_U32(sock, OFFSET_tcp_sock_rcv_nxt) - (u32)READ_U64(sock, OFFSET_tcp_sock_bytes_received);
}

/* The same connection's key at the other end. */
static inline void swap_key(const struct pair_key *key, struct pair_key *peer_key)
{
	peer_key->sent = key->received;
	peer_key->received = key->sent;
}
