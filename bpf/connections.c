/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Walks everything that is known of covered connections (bpf_iter over their storage), in every network namespace:
 * lists it, lets candidates join, or takes out those that should no longer be in the map.
 *
 * Joining is not left to the moment at which a connection is established, the only one that the kernel would offer to
 * sock_ops, because being in the map is enough to change a socket: a blocking recv() answers EAGAIN, kernel TLS
 * cannot be set up. What a program does with its new socket shows a little later.
 *
 * Deleting a socket that holds unread redirected bytes loses them without a trace, so eviction takes two walks with
 * an RCU grace period between: the first marks both ends, after which no verdict redirects any more; the second
 * deletes an end when nothing is queued and nobody can still be on the way from an earlier verdict to its queue.
 */

/* How often a candidate is looked at, and how long after the first look; each wait is four times the last. */
#define LOOKS 6
#define SECOND_LOOK_NS 100000000ULL
/* How long to wait for a socket whose lock is held. */
#define OWNED_NS 5000000ULL
/* How long to wait for one that shall pause and is in a call or has unread bytes; each wait is twice the last. */
#define RETRY_NS 10000000ULL
#define RETRY_DOUBLINGS 12
/* How often one walk looks for a moment in which an end is in no call. */
#define LOOKS_FOR_GAP 256
/* In the place of a reason: closed meanwhile. */
#define GONE COUNTERS_COUNT

struct bpf_iter_meta;

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	struct connection *value;
};

struct seq_file_of_meta {
	struct seq_file *seq;
};

/* What will not change any more, and what a sockmap would break; peer may be 0. */
static inline u32 reason_against_pair(u64 sock, u64 peer)
{
	if (sock_ulp(sock) || (peer && sock_ulp(peer)))
		return ULP_END;
	if (sock_zerocopies(sock) || (peer && sock_zerocopies(peer)))
		return ZEROCOPY_END;
	if (sock_wants_more_than_bytes(sock) || (peer && sock_wants_more_than_bytes(peer)))
		return OPTION_END;
	return 0;
}

static inline int pair_blocks(struct target *target, u64 file, u64 peer_file)
{
	return !(target->flags & TARGET_BLOCKING_READERS) &&
	       ((file && file_blocks(file)) || (peer_file && file_blocks(peer_file)));
}

/* What may still change: programs accept late, and set O_NONBLOCK after that. */
static inline u32 reason_to_wait(struct target *target, u64 sock, u64 peer)
{
	u64 file = sock_file(sock), peer_file = peer ? sock_file(peer) : 0;

	if (!peer)
		return LONELY;
	if (!file || !peer_file)
		return UNACCEPTED;
	if (pair_blocks(target, file, peer_file))
		return BLOCKING_END;
	return 0;
}

static inline void walk_at(struct settings *settings, u64 due_ns)
{
	if (!settings->next_due_ns || due_ns < settings->next_due_ns)
		settings->next_due_ns = due_ns;
}

/* Once more, soon: an end that this walk has passed must hear of something. */
static inline void walk_again(struct settings *settings)
{
	walk_at(settings, 1);
}

/* The end that finds out first has the reason counted, and tells the other one. 1 if the journal shall. */
static inline int leave_out(struct connection *connection, struct peer *other, u32 reason,
			    struct settings *settings)
{
	struct flow key = connection->own;

	connection->state = LEFT;
	connection->reason = reason;
	sa_peers.delete(&key);
	/* The connecting end was closed before, and counted then. */
	if (!connection->active && !other)
		return 0;
	if (other) {
		other->refused = reason;
		if (other->joined)
			walk_again(settings);
	}
	/* That was counted when it left. */
	if (reason != PAUSED)
		count(connection->slot, reason, 1);
	return 1;
}

static inline u32 reason_of_error(int error)
{
	if (error == -EBUSY)
		return FOREIGN_SOCKMAP;
	if (error == -EEXIST)
		return KEY_TAKEN;
	if (error == -E2BIG || error == -ENOMEM)
		return MAP_FULL;
	if (error == -EINVAL)
		return ULP_END;
	return UNSUPPORTED;
}

/*
 * The walk neither holds a reference to the socket nor its lock: it may be closed at any moment, and even be somebody
 * else's. Nobody redirects to it or from it before it is said to have joined, so it can be taken out again until then.
 * 0, or the reason why it cannot join.
 */
static inline u32 join(struct connection *connection, struct sock *sk, struct peer *other)
{
	struct flow key = connection->own;
	u64 sock = (u64)sk;
	struct peer *self;
	int error;

	/* Before the socket is in the map: from then on its owner's send() counts. */
	connection->counted_sequence = READ_U32(sock, OFFSET_tcp_sock_write_seq);
	connection->receive_maximum = sock_receive_maximum(sock);
	connection->memory_pressure = sock_memory_pressure(sock);
	connection->peer_sock = other->sock;
	connection->peer_cookie = other->cookie;
	if (sock_cookie(sock) != connection->cookie)
		return GONE;
	/* Never over another one: an older socket under this key may hold bytes that its owner has not read yet. */
	error = sa_members.insert(&key, sk);
	self = sa_peers.lookup(&key);
	if (!self || self->cookie != connection->cookie || sock_cookie(sock) != connection->cookie) {
		if (!error)
			sa_members.delete(&key);
		connection->state = LEFT;
		return GONE;
	}
	if (error)
		return reason_of_error(error);
	connection->looked_at = 0;
	connection->state = JOINED;
	connection->in_map = 1;
	self->joined = 1;
	if (other->joined && !connection->pauses)
		count(connection->slot, CONNECTIONS, 1);
	return 0;
}

/* The same for both ends, whichever of them fell behind. */
static inline u64 pause_ns(struct connection *connection, struct peer *self, struct peer *other)
{
	u32 small = self->small_messages || (other && other->small_messages);
	u32 doublings = connection->pauses - 1 + (small ? SMALL_DOUBLINGS : 0);

	return FIRST_PAUSE_NS << (doublings < PAUSE_DOUBLINGS ? doublings : PAUSE_DOUBLINGS);
}

/*
 * Out of the map for a while, and then a candidate again. The marks stay until came_back(): a verdict that is under way
 * in an old call must go on finding them.
 */
static inline void pause(struct connection *connection, struct peer *self, struct peer *other,
			 struct settings *settings)
{
	connection->pauses++;
	connection->looked_at = 0;
	connection->due_ns = bpf_ktime_get_ns() + pause_ns(connection, self, other);
	connection->state = CANDIDATE;
	self->joined = 0;
	walk_at(settings, connection->due_ns);
}

/*
 * Whether a paused end is as it was before it joined. Not while the other one has not left yet, and not while a call
 * goes on that began in the map: the kernel keeps the psock for that long, and it must be counted at a new one.
 */
static inline int came_back(struct connection *connection, u64 sock, struct peer *self, struct peer *other)
{
	if (sock_psock(sock))
		return 0;
	if (other && other->marked) {
		if (other->joined || sock_psock(other->sock))
			return 0;
		other->marked = 0;
	}
	self->marked = 0;
	connection->peer_joined = 0;
	connection->peer_file = 0;
	connection->behind = 0;
	connection->small_messages = 0;
	connection->last_by_tcp = 0;
	barrier();
	connection->marked = 0;
	return 1;
}

static inline void judge(struct connection *connection, struct sock *sk, u64 peer, struct peer *self,
			 struct peer *other, struct settings *settings)
{
	struct target *target = target_of(connection);
	u64 sock = (u64)sk, now = bpf_ktime_get_ns();
	struct flow key = connection->own;
	u32 reason;

	if (self && (self->refused || !is_enabled(target, connection))) {
		connection->state = LEFT;
		connection->reason = self->refused;
		if (connection->marked)
			connection->marked = self->refused ? self->refused : DRAINED;
		sa_peers.delete(&key);
		return;
	}
	/* A pause ends for both. */
	if (connection->due_ns > now && !(connection->marked && other && other->joined && !other->marked))
		goto later;
	/* Closed meanwhile. */
	if (!self) {
		connection->state = LEFT;
		return;
	}
	if (connection->marked && !came_back(connection, sock, self, other)) {
		connection->pauses++;
		connection->due_ns = now + pause_ns(connection, self, other);
		goto later;
	}
	/* The kernel tells of an accepting end a moment before it calls it established. */
	if (sock_state(sock) == TCP_SYN_RECV) {
		connection->due_ns = now + OWNED_NS;
		goto later;
	}
	reason = reason_against_pair(sock, peer);
	if (!reason && sock_state(sock) != TCP_ESTABLISHED)
		reason = connection->reason ? connection->reason : SHORT;
	/* Before this end is in: it could not leave while a peer is in a map that is not ours. */
	if (!reason && peer && other && !other->joined && (sock_psock(sock) || sock_psock(peer)))
		reason = FOREIGN_SOCKMAP;
	if (!reason) {
		reason = reason_to_wait(target, sock, other ? peer : 0);
		/* Its owner may be about to change what the kernel changes too. */
		if (!reason && sock_is_owned(sock)) {
			connection->due_ns = now + OWNED_NS;
			goto later;
		}
		if (reason) {
			connection->reason = reason;
			if (++connection->looked_at < LOOKS) {
				connection->due_ns = now + (SECOND_LOOK_NS << 2 * (connection->looked_at - 1));
				goto later;
			}
		} else {
			reason = join(connection, sk, other);
			if (reason == GONE)
				return;
			/* The other one's pause ends too, and this walk may have passed it. */
			if (!reason && connection->pauses && !other->joined)
				walk_again(settings);
		}
	}
	if (reason && !leave_out(connection, other, reason, settings))
		return;
	report(connection, reason ? EVENT_REFUSED : EVENT_JOINED, reason);
	return;
later:
	walk_at(settings, connection->due_ns);
}

static inline u32 reason_to_leave(struct connection *connection, u64 sock, u64 peer)
{
	struct target *target = target_of(connection);
	u32 reason;

	if (!is_enabled(target, connection))
		return DRAINED;
	reason = reason_against_pair(sock, peer);
	if (reason)
		return reason;
	if (pair_blocks(target, sock_file(sock), peer ? sock_file(peer) : 0))
		return BLOCKING_END;
	if (connection->behind >= PAUSE_MESSAGES)
		return PAUSED;
	return 0;
}

/* Both ends leave, or none: who is marked last goes by the other one's mark. The connection is counted once. */
static inline void mark(struct connection *connection, struct peer *self, struct peer *other, u64 sock, u64 peer,
			struct settings *settings)
{
	u32 told = self && self->refused ? self->refused : other ? other->marked : 0;
	u32 reason = connection->marked;

	if (!reason) {
		reason = reason_to_leave(connection, sock, peer);
		if (!reason && !told)
			return;
		connection->marked = reason ? reason : told == PAUSED ? PAUSED : LONELY;
		if (!told && !(reason == PAUSED && connection->pauses))
			count(connection->slot, reason, 1);
		if (other && !other->joined)
			other->refused = connection->marked;
		if (other && !other->marked)
			walk_again(settings);
	} else if (reason == PAUSED && !is_enabled(target_of(connection), connection)) {
		connection->marked = DRAINED;
	}
	if (self) {
		self->small_messages = connection->small_messages;
		self->marked = connection->marked;
	}
	settings->leaving++;
}

/*
 * 0 if there was a moment without a call in progress: those that begin later find the marks. A sender of a stream is
 * between two of its calls for a microsecond at most.
 */
static inline u32 is_in_call(u64 sock)
{
	u64 psock = sock_psock(sock);
	u32 references = 1;

	if (!psock)
		return 0;
#pragma clang loop unroll(disable)
	for (int look = 0; look < LOOKS_FOR_GAP; look++) {
		/* The map's own is the one; sendmsg and recvmsg hold another while they run. */
		references = READ_U32(psock, OFFSET_psock_refcnt);
		if (references == 1)
			break;
	}
	return references != 1;
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
static inline int may_be_deleted(struct connection *connection, u64 sock, u32 in_call, struct peer *other,
				 u64 peer, u32 peer_in_call)
{
	if (connection->redirected_messages && in_call)
		return 0;
	if (peer && other) {
		if (!other->marked || (other->redirected && peer_in_call))
			return 0;
	} else if (peer && sock_psock(peer)) {
		return 0;
	}
	return nothing_queued(sock);
}

/* The other end's socket, as long as its cookie proves that it still is; 0 otherwise. */
static inline u64 sock_of_peer(struct connection *connection, struct peer *other)
{
	if (connection->peer_sock)
		return sock_cookie(connection->peer_sock) == connection->peer_cookie ? connection->peer_sock : 0;
	return other && sock_cookie(other->sock) == other->cookie ? other->sock : 0;
}

static inline void try_later(struct connection *connection, struct settings *settings)
{
	u32 doublings = connection->looked_at < RETRY_DOUBLINGS ? connection->looked_at++ : RETRY_DOUBLINGS;

	walk_at(settings, bpf_ktime_get_ns() + (RETRY_NS << doublings));
}

/* 1 where there is no room: the kernel then interrupts the walk, and comes back to this end. */
static inline int list(struct connection *connection, struct settings *settings)
{
	u32 index = settings->listed, reason = connection->reason;
	struct event *line = sa_listing.lookup(&index);

	if (!line)
		return 1;
	if (reason >= COUNTERS_COUNT || (connection->state == JOINED && !connection->last_by_tcp))
		reason = 0;
	describe(line, connection, EVENT_CONNECTION, reason, connection->since_ns);
	settings->listed = index + 1;
	return 0;
}

int bpf_iter__bpf_sk_storage_map(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct seq_file *seq = ((struct seq_file_of_meta *)ctx->meta)->seq;
	struct connection *connection = ctx->value;
	struct sock *sk = ctx->sk;
	struct peer *self, *other;
	struct settings *settings;
	struct event record = {};
	struct flow key, peer_key;
	u32 state, in_call = 0, peer_in_call = 0;
	u64 sock, peer;
	int zero = 0;

	if (!connection || !sk)
		return 0;
	settings = sa_settings.lookup(&zero);
	sock = (u64)sk;
	/* Asked first: before it is a candidate, an end cannot be found by what follows. */
	state = *(volatile u32 *)&connection->state;
	barrier();
	if (!settings || sock_cookie(sock) != connection->cookie)
		return 0;
	if (settings->walk != WALK_LIST && state == LEFT && !connection->in_map)
		return 0;
	if (settings->walk == WALK_EVICT) {
		if (!connection->marked || !connection->in_map)
			return 0;
		/* Here, where there is one way to come by: the verifier follows each through the loops. */
		in_call = is_in_call(sock);
		peer_in_call = is_in_call(sock_of_peer(connection, NULL));
	}
	/* Closed: the kernel has taken it out, and the key may be somebody else's. */
	if (connection->in_map && !sock_psock(sock)) {
		connection->in_map = 0;
		connection->state = LEFT;
		if (settings->walk == WALK_EVICT)
			return 0;
	}
	if (settings->walk == WALK_LIST)
		return list(connection, settings);
	key = connection->own;
	peer_key = connection->peer;
	self = sa_peers.lookup(&key);
	if (self && self->cookie != connection->cookie)
		self = NULL;
	other = sa_peers.lookup(&peer_key);
	if (other && connection->peer_cookie && other->cookie != connection->peer_cookie)
		other = NULL;
	peer = sock_of_peer(connection, other);

	if (settings->walk == WALK_JUDGE) {
		if (state == CANDIDATE)
			judge(connection, sk, peer, self, other, settings);
		if (connection->in_map)
			mark(connection, self, other, sock, peer, settings);
		return 0;
	}
	describe(&record, connection, EVENT_CONNECTION, connection->marked, bpf_ktime_get_ns());
	if (may_be_deleted(connection, sock, in_call, other, peer, peer_in_call))
		record.kind = EVENT_EVICTED;
	else if (connection->marked == PAUSED)
		try_later(connection, settings);
	/* What does not fit any more is shown again in the next buffer, so it is not done yet either. */
	if (bpf_seq_write(seq, &record, sizeof(record)) || record.kind != EVENT_EVICTED)
		return 0;
	if (sa_members.delete(&key))
		return 0;
	count_tcp_bytes(connection, READ_U32(sock, OFFSET_tcp_sock_write_seq));
	connection->reason = connection->marked;
	connection->in_map = 0;
	if (connection->marked == PAUSED && self) {
		pause(connection, self, other, settings);
		return 0;
	}
	connection->state = LEFT;
	if (self)
		sa_peers.delete(&key);
	return 0;
}
