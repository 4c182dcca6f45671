/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Walks all joined sockets (bpf_iter): lists them, or takes out those that should no longer be in the map. Deleting
 * a socket that holds unread redirected bytes loses them without a trace, so eviction takes two walks with an RCU
 * grace period between: the first marks both ends, after which no verdict redirects any more; the second deletes
 * an end when nothing is queued and nobody can still be on the way from an earlier verdict to its queue.
 */

struct bpf_iter_meta;

struct bpf_iter__sockmap {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	void *key;
	struct sock *sk;
};

struct seq_file_of_meta {
	struct seq_file *seq;
};

static inline u32 reason_to_leave(struct connection *connection, u64 sock, u64 peer, struct event *record,
				  u64 grace_ns)
{
	struct target *target = sa_targets.lookup(&connection->slot);
	u64 file, peer_file;

	if (!is_enabled(target, connection))
		return EVICTED_DRAINED;
	if (sock_ulp(sock) || (peer && sock_ulp(peer)))
		return EVICTED_ULP;
	if (sock_zerocopies(sock) || (peer && sock_zerocopies(peer)))
		return ZEROCOPY_END;
	/* Programs connect or accept first and set O_NONBLOCK next. */
	if (record->time_ns - connection->joined_ns < grace_ns) {
		record->young = 1;
		return 0;
	}
	if (!peer)
		return EVICTED_LONELY;
	if (target->flags & TARGET_BLOCKING_READERS)
		return 0;
	file = sock_file(sock);
	peer_file = sock_file(peer);
	if ((file && file_blocks(file)) || (peer_file && file_blocks(peer_file)))
		return EVICTED_BLOCKING;
	return 0;
}

static inline int no_call_in_progress(u64 sock)
{
	u64 psock = sock_psock(sock);

	/* The map's own reference is the one; sendmsg and recvmsg hold another while they run. */
	return !psock || READ_U32(psock, OFFSET_psock_refcnt) == 1;
}

static inline int nothing_queued(u64 sock)
{
	u64 psock = sock_psock(sock);
	u64 head = psock + OFFSET_psock_ingress_msg;

	return !psock || READ_U64(head, 0) == head;
}

/*
 * The queue is asked last: who was on the way to it when it was still empty has, by then, either been seen in
 * progress or has arrived.
 */
static inline int may_be_deleted(struct connection *connection, u64 sock, struct peer *other, u64 peer)
{
	if (connection->redirected_messages && !no_call_in_progress(sock))
		return 0;
	if (peer && other) {
		if (!other->marked || (other->redirected && !no_call_in_progress(peer)))
			return 0;
	} else if (peer && sock_psock(peer)) {
		return 0;
	}
	return nothing_queued(sock);
}

int bpf_iter__sockmap(struct bpf_iter__sockmap *ctx)
{
	struct seq_file *seq = ((struct seq_file_of_meta *)ctx->meta)->seq;
	struct connection *connection;
	struct sock *sk = ctx->sk;
	struct peer *self, *other;
	struct settings *settings;
	struct event record = {};
	struct flow key = {}, peer_key;
	u64 sock, peer = 0;
	int zero = 0;
	u32 reason;

	if (!ctx->key || !sk)
		return 0;
	settings = sa_settings.lookup(&zero);
	connection = sa_connections.sk_storage_get(sk, 0, 0);
	if (!settings || !connection)
		return 0;
	sock = (u64)sk;
	key = connection->own;
	peer_key = connection->peer;
	other = sa_peers.lookup(&peer_key);
	if (connection->peer_sock && sock_cookie(connection->peer_sock) == connection->peer_cookie)
		peer = connection->peer_sock;
	else if (!connection->peer_sock && other && sock_cookie(other->sock) == other->cookie)
		peer = other->sock;

	describe(&record, connection, EVENT_MEMBER, connection->last_by_tcp ? connection->reason : 0,
		 bpf_ktime_get_ns());
	if (settings->sweep == SWEEP_MARK) {
		reason = reason_to_leave(connection, sock, peer, &record, settings->sweep_grace_ns);
		if (reason) {
			self = sa_peers.lookup(&key);
			if (self)
				self->marked = 1;
			/* Both ends leave; the connection is counted once. */
			if (!connection->marked) {
				connection->marked = reason;
				if (connection->active || !peer)
					count(connection->slot, reason, 1);
			}
		} else if (!record.young) {
			return 0;
		}
	} else if (settings->sweep == SWEEP_EVICT) {
		if (!connection->marked)
			return 0;
		record.reason = connection->marked;
		if (may_be_deleted(connection, sock, other, peer))
			record.kind = EVENT_EVICTED;
	}
	record.marked = connection->marked;
	/* What does not fit any more is shown again in the next buffer, so it is not done yet either. */
	if (bpf_seq_write(seq, &record, sizeof(record)) || record.kind != EVENT_EVICTED)
		return 0;
	if (!sa_members.delete(&key)) {
		connection->state = LEFT;
		connection->in_map = 0;
		sa_peers.delete(&key);
	}
	return 0;
}
