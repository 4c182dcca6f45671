/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How each message travels (sk_msg, in the sender's send(), under the sender's lock). SK_PASS is plain TCP and safe
 * at any message. A redirect cannot be undone, so everything that speaks against it is asked before.
 */

/* Unit: bytes; twice what net.ipv4.tcp_rmem gives a new socket by default. */
#define BACKLOG_OF_SMALL_BUFFER 262144
/* Unit: bytes; what the loopback interface takes at once. */
#define LARGEST_SEGMENT 65536
/* Up to this, a stream is faster when TCP coalesces its messages. Unit: bytes. */
#define SMALL_MESSAGE 16384

#define NOTHING COUNTERS_COUNT
#define OWN(type, sock, offset) (*(type *)((void *)(sock) + (offset)))
#define OWN_BITS(sock, field) ((OWN(u8, sock, OFFSET_##field) >> SHIFT_##field) & MASK_##field)

static inline u32 reason_in_sender(struct connection *connection, struct target *target, void *sock)
{
	u8 state = OWN(u8, sock, OFFSET_sock_state);

	if (!is_enabled(target, connection) || connection->marked)
		return SWITCHED_OFF;
	/* After SHUT_WR plain TCP answers EPIPE; a redirect would still deliver. */
	if (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT)
		return SHUT_DOWN;
	/* tcp_bpf would never queue the completions that the sender waits for. */
	if (OWN(u64, sock, OFFSET_sock_flags) & (1ULL << SOCK_ZEROCOPY))
		return ZEROCOPY;
	if (OWN(u64, sock, OFFSET_sock_ulp))
		return ULP;
	/* The application asked for held back segments, which a redirect would deliver one by one. */
	if (OWN_BITS(sock, tcp_sock_nonagle) & TCP_NAGLE_CORK)
		return CORK;
	return NOTHING;
}

/* The peer joins a moment before or after this end. */
static inline u32 await_peer(struct connection *connection, void *sock)
{
	struct peer *peer;

	if (connection->peer_joined)
		return NOTHING;
	/* The walk that lets this end join is not done with it yet. */
	if (connection->state != JOINED)
		return NO_PEER;
	peer = sa_peers.lookup(&connection->peer);
	if (!peer || !peer->joined)
		return NO_PEER;
	connection->peer_joined = 1;
	connection->joined_sequence = OWN(u32, sock, OFFSET_tcp_sock_write_seq);
	return NOTHING;
}

/*
 * Whether the peer's buffer has room for a message beside what is unread and what TCP was promised. With about half
 * of the buffer unread, TCP's own flow control shall stop the sender. And bytes that TCP sends inside the window that
 * it was given must still find room: they would be dropped, and come again only after a timeout of up to seconds. A
 * buffer whose size the application did not set is enlarged by the kernel itself, up to tcp_rmem
 * (tcp_clamp_window() in net/ipv4/tcp_input.c); as long as TCP has not done so, a reader that is only late may have
 * BACKLOG_OF_SMALL_BUFFER unread.
 */
static inline int has_room(struct connection *connection, u64 peer, u32 unread, u32 size)
{
	u32 limit = READ_U32(peer, OFFSET_sock_rcvbuf), backlog = limit / 2;
	u64 needed = (u64)unread + size, promised;

	if (!(READ_BITS(peer, sock_userlocks) & SOCK_RCVBUF_LOCK) && limit < connection->receive_maximum) {
		limit = connection->receive_maximum;
		if (backlog < BACKLOG_OF_SMALL_BUFFER)
			backlog = BACKLOG_OF_SMALL_BUFFER;
	}
	if (unread > backlog)
		return 0;
	/* As much as TCP itself may exceed: it asks for room before it adds a segment. */
	if (needed <= (limit / 16 < LARGEST_SEGMENT ? limit / 16 : LARGEST_SEGMENT))
		return 1;
	promised = sock_receive_window(peer);
	return needed + promised + promised / 4 <= limit;
}

static inline u32 reason_in_peer(struct connection *connection, struct target *target, void *sock, u32 size)
{
	u64 peer = connection->peer_sock;
	u32 unread;

	if (sock_cookie(peer) != connection->peer_cookie)
		return PEER_GONE;
	/* A socket keeps its file from accept() to the last close(), at which it also leaves the map: a remembered
	 * file is as good as the map entry that the redirect needs. */
	if (!connection->peer_file) {
		connection->peer_file = sock_file(peer);
		if (!connection->peer_file)
			return NOT_ACCEPTED;
	}
	/* Out of a blocking recv() the kernel would return EAGAIN, cut MSG_WAITALL short, or miss a wake-up. The
	 * sender reads too: a pair with one blocking end is about to be evicted. */
	if (!(target->flags & TARGET_BLOCKING_READERS)) {
		if (!connection->file)
			connection->file = sock_file((u64)sock);
		if (file_blocks(connection->peer_file) || file_blocks(connection->file))
			return BLOCKING;
	}
	if (sock_ulp(peer))
		return ULP;
	if (READ_AS(s32, peer, OFFSET_sock_rcvlowat) > 1)
		return LOW_WATER;
	if (READ_AS(s32, peer, OFFSET_sock_peek_off) >= 0)
		return PEEK_OFFSET;
	/* The rule of order: the kernel hands out redirected bytes before TCP's, so TCP must have nothing left,
	 * neither in the reader's queue nor on the way. */
	if (OWN(u32, sock, OFFSET_tcp_sock_write_seq) != READ_U32(peer, OFFSET_tcp_sock_copied_seq))
		return ORDER;
	/* A reader may still sleep in TCP's own receive function, which no redirect would wake, since before the
	 * peer joined: the first message after that goes by TCP. */
	if (OWN(u32, sock, OFFSET_tcp_sock_write_seq) == connection->joined_sequence)
		return ORDER;
	if (target->flags & TARGET_BLOCKING_READERS && file_blocks(connection->peer_file) &&
	    sock_is_read_by_tcp(peer))
		return BLOCKING;
	/* More than the peer has been granted already must be granted first, which can fail where TCP would wait. */
	if ((s32)size > READ_AS(s32, peer, OFFSET_sock_forward_alloc) &&
	    (READ_U64(connection->memory_pressure, 0) || cgroup_is_full(peer, size)))
		return MEMORY;
	unread = READ_U32(peer, OFFSET_sock_rmem_alloc);
	if (!has_room(connection, peer, unread, size))
		return BACKLOG;
	if (unread && size <= SMALL_MESSAGE && !(OWN_BITS(sock, tcp_sock_nonagle) & TCP_NAGLE_OFF))
		return COALESCE;
	return NOTHING;
}

/* Programs that evict must know which ends may have redirected bytes in flight (see connections.c). */
static inline void note_first_redirect(struct connection *connection)
{
	struct peer *self = sa_peers.lookup(&connection->own);

	if (self)
		self->redirected = 1;
}

/* Only here, in send(), is it sure which program the socket belongs to. */
static inline void note_sender(struct connection *connection)
{
	u64 task = bpf_get_current_task();

	connection->sender_known = 1;
	connection->pid = bpf_get_current_pid_tgid() >> 32;
	probe_read(connection->comm, sizeof(connection->comm), (void *)(task + OFFSET_task_comm));
}

/* A sender that never lets its reader catch up stays with TCP, by the rule of order or message by message. */
static inline void note_behind(struct connection *connection, u32 reason, u32 size)
{
	if (reason != COALESCE && reason != ORDER && reason != BACKLOG)
		return;
	if (++connection->behind < PAUSE_MESSAGES)
		return;
	connection->small_messages = size <= SMALL_MESSAGE;
	want_sweep(SWEEP_NOW);
}

/* Each of these costs a locked instruction per message, so one look-up serves both. */
static inline void count_redirect(u32 slot, u32 size)
{
	struct counters *counters = sa_counters.lookup(&slot);

	if (!counters)
		return;
	__sync_fetch_and_add(&counters->value[REDIRECTED_MESSAGES], 1);
	__sync_fetch_and_add(&counters->value[REDIRECTED_BYTES], size);
}

static inline void note_tcp(struct connection *connection, u32 reason)
{
	connection->tcp_messages++;
	connection->last_by_tcp = 1;
	count(connection->slot, TCP_MESSAGES, 1);
	count(connection->slot, reason, 1);
	/* Reasons that last are worth a line in the journal, once; the others come and go with the load. */
	if (reason != connection->reason && reason != ORDER && reason != BACKLOG && reason != COALESCE &&
	    reason != NOT_ACCEPTED && reason != MEMORY && reason != NO_PEER && reason != SWITCHED_OFF)
		report(connection, EVENT_FALLBACK, reason);
	/* One that shall pause is tried again after a time: its next message says nothing new. */
	if ((reason == SWITCHED_OFF && connection->marked != PAUSED) || reason == BLOCKING || reason == ULP ||
	    reason == ZEROCOPY)
		want_sweep(SWEEP_NOW);
	connection->reason = reason;
}

int sockaccel_msg(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct connection *connection;
	struct target *target;
	u32 reason, size;
	void *sock;

	/* The probe's sockets, and those of nobody: TCP. */
	if (!sk)
		return SK_PASS;
	connection = sa_connections.sk_storage_get(sk, 0, 0);
	sock = TCP_SOCK(sk);
	if (!connection || !sock)
		return SK_PASS;
	/* Another call that began before keeps the verdict for a socket that has left. */
	if (!connection->in_map)
		return SK_PASS;
	target = sa_targets.lookup(&connection->slot);
	if (!target)
		return SK_PASS;
	if (!connection->sender_known)
		note_sender(connection);

	count_tcp_bytes(connection, OWN(u32, sock, OFFSET_tcp_sock_write_seq));
	size = msg->size;
	reason = reason_in_sender(connection, target, sock);
	if (reason == NOTHING)
		reason = await_peer(connection, sock);
	if (reason == NOTHING)
		reason = reason_in_peer(connection, target, sock, size);
	if (reason == NOTHING) {
		if (!connection->redirected_messages)
			note_first_redirect(connection);
		connection->redirected_messages++;
		/* Never the helper's own value: its SK_DROP is EACCES in the application. */
		if (sa_members.msg_redirect_hash(msg, &connection->peer, BPF_F_INGRESS) == SK_PASS) {
			connection->redirected_bytes += size;
			connection->last_by_tcp = 0;
			if (connection->behind)
				connection->behind -= connection->behind < REDIRECT_WEIGHT ? connection->behind
											   : REDIRECT_WEIGHT;
			count_redirect(connection->slot, size);
			return SK_PASS;
		}
		connection->redirected_messages--;
		reason = REFUSED;
	}
	note_behind(connection, reason, size);
	note_tcp(connection, reason);
	return SK_PASS;
}

/*
 * What sockets join under, for life. An emptied array is a switch that nothing can jam: all goes by TCP. The array
 * is emptied when the daemon is gone, and then this program alone keeps the map of members: were it freed, the
 * kernel would drop all sockets from it with everything that they had not read (sock_hash_free() in
 * net/core/sock_map.c). So it names the map, in a branch that no message takes.
 */
int sockaccel_stub(struct sk_msg_md *msg)
{
	struct flow nowhere = {};

	sa_verdict.call(msg, 0);
	if (!msg->sk)
		sa_members.msg_redirect_hash(msg, &nowhere, BPF_F_INGRESS);
	return SK_PASS;
}
