/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Decides how each message travels (sk_msg, in the sender's send(), under the lock of the sender's socket).
 * SK_PASS leaves it to TCP, which is safe for any message. A redirect cannot be undone, so every reason against it
 * is asked for before.
 */
#include "lib/options.h"
#include "lib/sock.h"

/* Bytes; twice the receive buffer that net.ipv4.tcp_rmem gives a new socket by default. */
#define BACKLOG_OF_SMALL_BUFFER 262144
/* Bytes; the largest segment of the loopback interface. */
#define LARGEST_SEGMENT 65536
/* Bytes; a stream of messages up to this size is faster when TCP coalesces them. */
#define SMALL_MESSAGE 16384

/* For ends in one network namespace that see the same addresses. */
#define NEAR_HEARTBEAT_NS 30000000000ULL
/* Times between heartbeats are counted in units of about a millisecond. */
#define HEARTBEAT_SHIFT 20

/* How long a message may wait for its reader, and again for the reader's lock: to copy a few large ones takes that. */
#define PATIENCE_NS 50000
/*
 * The verifier follows every look, so there are few, with about a microsecond between them. A reader that has read
 * nothing after IDLE_LOOKS may not be on a CPU at all.
 */
#define READER_LOOKS 64
#define IDLE_LOOKS 24
/*
 * How many messages may wait, from a redirect on; each that finds the reader idle counts as IDLE_COUNTS. When they have,
 * REST_MESSAGES do not wait. Then one does, and if the reader reads meanwhile, MORE_PATIENCE more may.
 */
#define MOST_PATIENCE 64
#define IDLE_COUNTS 4
#define REST_MESSAGES 64
#define MORE_PATIENCE 32
/* A reader with fewer bytes unread than 2 to the power of this counts as caught up. */
#define LATE_SHIFT 16

/* Fields of the sender's own socket, which is locked. */
#define OWN(type, sock, offset) (*(type *)((void *)(sock) + (offset)))
#define OWN_BITS(sock, field) ((OWN(u8, sock, OFFSET_##field) >> SHIFT_##field) & MASK_##field)

/* Fields of the reader's socket; peer is its struct view, or with bpf_rdonly_cast() the socket itself. */
#ifdef KFUNC_rdonly_cast
#define PEER_ACCESS PROBED
#else
#define PEER_ACCESS COPIED
#endif
#define PEER(type, peer, field) FIELD(type, PEER_ACCESS, peer, field)

static inline u32 time_of_heartbeat(void)
{
	return coarse_ns() >> HEARTBEAT_SHIFT;
}

static inline u32 reason_in_sender(struct end *end, struct target *target, void *sock)
{
	u8 state = OWN(u8, sock, OFFSET_sock_state);

	if (!is_enabled(target, end))
		return SWITCHED_OFF;
	if (end->marked || (end->elsewhere && !(target->flags & TARGET_OTHER_NAMESPACES)))
		return LEAVING;
	/* A watcher of this same call has seen its flags. */
	if (end->odd_sender && (end->odd_sender == EVERYBODY || end->odd_sender == bpf_get_current_pid_tgid()))
		return SEND_FLAGS;
	/* After SHUT_WR plain TCP answers EPIPE; a redirect would still deliver. */
	if (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT)
		return SHUT_DOWN;
	/* TCP_CORK asks TCP to hold segments back; a redirect would deliver each message at once. */
	if (OWN_BITS(sock, tcp_sock_nonagle) & TCP_NAGLE_CORK)
		return CORK;
	return NO_REASON;
}

/* The peer joins a moment before or after this end. */
static inline u32 await_peer(struct end *end, void *sock)
{
	struct peer_entry *entry;

	if (end->peer_joined)
		return NO_REASON;
	/* The walk that lets this end join has not finished with it. */
	if (end->state != JOINED)
		return NO_PEER;
	entry = sa_peers.lookup(&end->peer_key);
	if (!entry || !noted(entry->joined, end->peer_cookie))
		return NO_PEER;
	end->peer_end = entry->end;
	/* An entry may be used again for another end at any moment. */
	if (READ_U64(end->peer_end, __builtin_offsetof(struct end, cookie)) != end->peer_cookie)
		return NO_PEER;
	end->peer_joined = 1;
	end->joined_sequence = OWN(u32, sock, OFFSET_tcp_sock_write_seq);
	return NO_REASON;
}

/*
 * Whether the peer's buffer has room for a message, beside what is unread and what TCP has promised to the sender.
 * When about half of the buffer is unread, TCP's own flow control should stop the sender. Bytes that TCP sends
 * inside its promised window must find room too: otherwise the kernel drops them, and they come again after a
 * timeout of up to seconds. The kernel enlarges a buffer whose size the application did not set, up to tcp_rmem
 * (tcp_clamp_window() in net/ipv4/tcp_input.c). Before TCP has done so, a reader that is only late may have
 * BACKLOG_OF_SMALL_BUFFER unread.
 */
static inline int has_room(struct end *end, const void *peer, u32 unread, u32 size)
{
	u32 limit = PEER(u32, peer, sock_rcvbuf), backlog = limit / 2;
	u64 needed = (u64)unread + size, promised;

	if (!(FIELD_BITS(PEER_ACCESS, peer, sock_userlocks) & SOCK_RCVBUF_LOCK) && limit < end->receive_maximum) {
		limit = end->receive_maximum;
		if (backlog < BACKLOG_OF_SMALL_BUFFER)
			backlog = BACKLOG_OF_SMALL_BUFFER;
	}
	if (unread > backlog)
		return 0;
	/* TCP itself may exceed the buffer by as much: it asks for room before it adds a segment. */
	if (needed <= (limit / 16 < LARGEST_SEGMENT ? limit / 16 : LARGEST_SEGMENT))
		return 1;
	promised = sock_receive_window(end->peer_sock);
	/* A quarter of the window more, for the kernel's bookkeeping. */
	return needed + promised + promised / 4 <= limit;
}

/* Finds the files of both sockets, and whether one of them does blocking reads that a redirect would disturb. */
static inline u32 reason_in_files(struct end *end, struct target *target, void *sock)
{
	/* A socket keeps its file from accept() to the last close(), at which it also leaves the map. So a
	 * remembered file is as good as the map's entry, which the redirect needs. */
	if (!end->peer_file) {
		end->peer_file = sock_file(end->peer_sock);
		if (!end->peer_file)
			return NOT_ACCEPTED;
	}
	/* A blocking recv() could return EAGAIN, cut MSG_WAITALL short, or miss a wake-up. The sender reads too,
	 * so a pair with one blocking end is about to be evicted. */
	if (!(target->flags & TARGET_BLOCKING_READERS)) {
		if (!end->file)
			end->file = sock_file((u64)sock);
		if (file_blocks(end->file) && end->reads != DONTWAIT_READS)
			return BLOCKING;
		if (file_blocks(end->peer_file) && !never_waits(end->peer_end, end->peer_cookie))
			return BLOCKING;
	}
	return NO_REASON;
}

/*
 * Whether recv() has read all that TCP carried, in the map. splice() does not find redirected bytes, so a reader is
 * only believed to use recv() after it has: this is the evidence. What the watcher misses goes by TCP.
 */
static inline int is_received(struct end *end, u32 write_sequence)
{
	return READ_U64(end->peer_end, __builtin_offsetof(struct end, received)) == (RECEIVED | write_sequence);
}

/* The kernel hands out redirected bytes before TCP's. */
static inline u32 reason_in_order(struct end *end, struct target *target, void *sock, const void *peer)
{
	u32 write_sequence = OWN(u32, sock, OFFSET_tcp_sock_write_seq),
	    watched = target->flags & TARGET_RECV_WATCHED;

	if (!watched || !is_received(end, write_sequence)) {
		/* So TCP must have nothing left, neither in the reader's queue nor on the way. */
		if (write_sequence != PEER(u32, peer, tcp_sock_copied_seq))
			return ORDER;
		/* The first message after the peer has joined goes by TCP: a reader may sleep in TCP's own receive
		 * function since before, and no redirect would wake it. */
		if (write_sequence == end->joined_sequence)
			return ORDER;
		if (watched)
			return UNPROVEN;
	}
	if (target->flags & TARGET_BLOCKING_READERS && file_blocks(end->peer_file) &&
	    sock_is_read_by_tcp(end->peer_sock))
		return BLOCKING;
	return NO_REASON;
}

/* What a program or an administrator set for the packets that a redirect would not send. */
static inline u32 reason_in_either(struct end *end, void *sock, const void *peer)
{
	u32 reason = reason_in_options(DIRECT, sock);

	if (!reason)
		reason = reason_in_options_of_sender(DIRECT, sock);
	if (!reason)
		reason = reason_in_options(PEER_ACCESS, peer);
	if (!reason)
		reason = reason_in_options_of_reader(PEER_ACCESS, peer);
	if (!reason &&
	    namespace_has_policies(DIRECT, OWN(u64, sock, OFFSET_sock_net), end->is_ipv4 && !end->elsewhere))
		reason = IPSEC;
	if (!reason && end->elsewhere &&
	    namespace_has_policies(PROBED, READ_U64(end->peer_sock, OFFSET_sock_net), 0))
		reason = IPSEC;
	return reason;
}

/* Small messages that TCP may still put together: faster by TCP than one redirect each. */
static inline int may_coalesce(void *sock, u32 size)
{
	return size <= SMALL_MESSAGE && !(OWN_BITS(sock, tcp_sock_nonagle) & TCP_NAGLE_OFF);
}

/* Whether the reader has room, and the message is better there at once. */
static inline u32 reason_in_backlog(struct end *end, void *sock, const void *peer, u32 size)
{
	u32 unread = PEER(u32, peer, sock_rmem_alloc);

	/* For more than the kernel has already granted the peer it must be asked, which can fail where TCP would
	 * wait. */
	if ((s32)size > PEER(s32, peer, sock_forward_alloc) &&
	    (READ_U64(sock_memory_pressure((u64)sock), 0) || cgroup_is_full(end->peer_sock, size)))
		return MEMORY;
	if (!has_room(end, peer, unread, size))
		return BACKLOG;
	if (unread && may_coalesce(sock, size))
		return COALESCE;
	return NO_REASON;
}

/* The time, after about a microsecond: nothing else lets time pass. */
static inline u64 some_time_later(void)
{
#pragma unroll
	for (int time = 0; time < 31; time++)
		bpf_ktime_get_ns();
	return bpf_ktime_get_ns();
}

/*
 * The redirect takes the reader's lock, and sleeps until whoever has it gives it back. A call of the reader's that
 * sleeps in a page fault keeps it as long as that takes. One that only copies gives it back in a moment, and the
 * reader of a stream is in such a call most of the time: it has that moment.
 */
static inline u32 await_lock(struct end *end, void *sock, u32 watched)
{
	u64 until = bpf_ktime_get_ns() + PATIENCE_NS;

#pragma clang loop unroll(disable)
	for (int look = 0; look < READER_LOOKS; look++) {
		if (!sock_is_owned(end->peer_sock)) {
			/* Meanwhile the reader may have called splice(). */
			if (watched && !is_received(end, OWN(u32, sock, OFFSET_tcp_sock_write_seq)))
				return UNPROVEN;
			return NO_REASON;
		}
		if (some_time_later() > until)
			break;
	}
	return READER_BUSY;
}

/*
 * What lies between the ends may forget a connection of which it sees nothing (connection tracking, which then does
 * not translate the end of the connection either), or may have got a rule that stops it. So now and then a message goes
 * by TCP: if it does not get through, the rule of order keeps all behind it. Between ends that see the same
 * addresses in one namespace only firewall rules for established connections can lie, on the loopback interface.
 */
static inline u32 reason_in_time(struct end *end, struct target *target)
{
	u64 pause_ns = end->apart ? target->heartbeat_ns : NEAR_HEARTBEAT_NS;
	u32 passed = time_of_heartbeat() - end->tcp_time;

	return passed >= pause_ns >> HEARTBEAT_SHIFT ? HEARTBEAT : NO_REASON;
}

/* Whether a message went by TCP because its reader was behind: the next one may be redirected. */
static inline int is_late(u32 reason)
{
	return reason == ORDER || reason == UNPROVEN || reason == BACKLOG || reason == READER_BUSY;
}

/* Whether the reader is behind, and may catch up while this message waits. */
static inline int is_worth_waiting(struct end *end, void *sock, const void *peer, u32 size)
{
	u32 unread = PEER(u32, peer, sock_rmem_alloc);

	/* Another rule that was against the last message would be against this one too, after the wait. */
	if (end->last_by_tcp && !is_late(end->reason) && end->reason != HEARTBEAT)
		return 0;
	/* It is about to leave. */
	if (end->behind >= PAUSE_MESSAGES)
		return 0;
	if (may_coalesce(sock, size))
		return 0;
	if (OWN(u32, sock, OFFSET_tcp_sock_write_seq) == PEER(u32, peer, tcp_sock_copied_seq) &&
	    (!(unread >> LATE_SHIFT) || has_room(end, peer, unread, size)))
		return 0;
	if (!end->patience && end->rest) {
		end->rest--;
		return 0;
	}
	return has_room(end, peer, 0, size);
}

static inline void lose_patience(struct end *end, u32 count)
{
	end->patience -= end->patience < count ? end->patience : count;
}

/*
 * Gives a reader that is behind a moment to read what it has. A sender that never rests would otherwise keep TCP's
 * buffers full, so that the reader never has read all, and everything goes by TCP until the connection pauses.
 */
static inline void await_reader(struct end *end, void *sock, u32 watched)
{
	/* The lower half of what the watcher notes is a sequence number too. */
	u64 where = watched ? end->peer_end + __builtin_offsetof(struct end, received)
			    : end->peer_sock + OFFSET_tcp_sock_copied_seq;
	u32 written = OWN(u32, sock, OFFSET_tcp_sock_write_seq), read, unread, first = 0;
	u64 until = bpf_ktime_get_ns() + PATIENCE_NS;

#pragma clang loop unroll(disable)
	for (int look = 0; look < READER_LOOKS; look++) {
		read = READ_U32(where, 0);
		unread = READ_U32(end->peer_sock, OFFSET_sock_rmem_alloc);
		if (!((read ^ written) | (unread >> LATE_SHIFT))) {
			lose_patience(end, 1);
			return;
		}
		if (!look)
			first = read - unread;
		if ((look == IDLE_LOOKS && read - unread == first) || some_time_later() > until)
			break;
	}
	if (read - unread == first)
		lose_patience(end, IDLE_COUNTS);
	else if (end->patience)
		lose_patience(end, 1);
	else
		end->patience = MORE_PATIENCE;
	if (!end->patience)
		end->rest = REST_MESSAGES;
}

static inline u32 reason_in_peer(struct end *end, struct target *target, void *sock, u32 size)
{
	u32 reason, watched = target->flags & TARGET_RECV_WATCHED;
#ifdef KFUNC_rdonly_cast
	const void *peer = (const void *)end->peer_sock;
#else
	struct view view;
	const void *peer = &view;

	look_at(end->peer_sock, &view);
#endif
	if (is_worth_waiting(end, sock, peer, size)) {
		await_reader(end, sock, watched);
#ifndef KFUNC_rdonly_cast
		look_at(end->peer_sock, &view);
#endif
	}
	if (PEER(u64, peer, sock_cookie) != end->peer_cookie)
		return PEER_GONE;
	reason = reason_in_files(end, target, sock);
	if (reason)
		return reason;
	reason = reason_in_either(end, sock, peer);
	if (reason)
		return reason;
	if (PEER(s32, peer, sock_rcvlowat) > 1)
		return LOW_WATER;
	if (PEER(s32, peer, sock_peek_off) >= 0)
		return PEEK_OFFSET;
	reason = reason_in_order(end, target, sock, peer);
	if (reason)
		return reason;
	reason = reason_in_backlog(end, sock, peer, size);
	if (reason)
		return reason;
	reason = reason_in_time(end, target);
	if (reason)
		return reason;
	return sock_is_owned(end->peer_sock) ? await_lock(end, sock, watched) : NO_REASON;
}

/* Tells the walk that evicts that redirected bytes of this end may be on their way (evict.c). */
static inline void note_first_redirect(struct end *end)
{
	struct peer_entry *entry;
	struct pair_key own_key;

	swap_key(&end->peer_key, &own_key);
	entry = sa_peers.lookup(&own_key);
	if (entry)
		entry->redirected = note(end->cookie, 1);
}

/* In send() the current task is certain to have the socket. */
static inline void note_sender(struct end *end)
{
	u64 task = bpf_get_current_task();

	end->sender_known = 1;
	end->pid = bpf_get_current_pid_tgid() >> 32;
	probe_read(end->comm, sizeof(end->comm), (void *)(task + OFFSET_task_comm));
}

/* A connection whose sender never lets its reader catch up goes by TCP all the time: it should pause. */
static inline void note_behind(struct end *end, u32 reason, u32 size)
{
	if (!is_late(reason) && reason != COALESCE && reason != SEND_FLAGS)
		return;
	if (end->behind < PAUSE_MESSAGES && ++end->behind < PAUSE_MESSAGES)
		return;
	end->small_messages = size <= SMALL_MESSAGE;
	want_sweep(SWEEP_NOW);
}

static inline void note_redirect(struct end *end, u32 size)
{
	u32 slot = end->slot;
	struct counters *counters;

	end->redirected_bytes += size;
	end->last_by_tcp = 0;
	end->beat = 0;
	if (end->behind)
		end->behind -= end->behind < REDIRECT_WEIGHT ? end->behind : REDIRECT_WEIGHT;
	end->patience = MOST_PATIENCE;
	/* One look-up for both counters: this runs for each redirected message. */
	counters = sa_counters.lookup(&slot);
	if (!counters)
		return;
	__sync_fetch_and_add(&counters->value[REDIRECTED_MESSAGES], 1);
	__sync_fetch_and_add(&counters->value[REDIRECTED_BYTES], size);
}

/* Whether a reason lasts, so that the journal should tell of it once. The others come and go with the load. */
static inline int is_lasting(u32 reason)
{
	return !is_late(reason) && reason != COALESCE && reason != HEARTBEAT && reason != NOT_ACCEPTED &&
	       reason != MEMORY && reason != NO_PEER && reason != SWITCHED_OFF && reason != LEAVING &&
	       reason != SEND_FLAGS;
}

/* Whether a sweep is needed for the connection to leave the map. For a pause note_behind() has asked for one. */
static inline int must_leave(struct end *end, u32 reason)
{
	if (reason == SWITCHED_OFF || reason == LEAVING)
		return end->marked != PAUSED;
	return reason == BLOCKING || reason_of_connection(reason);
}

static inline void note_tcp(struct end *end, void *sock, u32 reason)
{
	end->tcp_messages++;
	end->last_by_tcp = 1;
	end->tcp_time = time_of_heartbeat();
	if (reason == HEARTBEAT)
		end->beat = 1;
	count(end->slot, TCP_MESSAGES, 1);
	count(end->slot, reason, 1);
	if (reason != end->reason && is_lasting(reason))
		report(end, (u64)sock, EVENT_FALLBACK, reason);
	if (must_leave(end, reason))
		want_sweep(SWEEP_NOW);
	end->reason = reason;
}

/* Returns NO_REASON if the message was redirected. */
static inline u32 redirect(struct sk_msg_md *msg, struct end *end, u32 size)
{
	if (!end->redirected_messages)
		note_first_redirect(end);
	/* Counted before, so that a walk that evicts sees it in time. */
	end->redirected_messages++;
	/* The helper's own value is not passed on: its SK_DROP would be EACCES in the application. */
	if (sa_members.msg_redirect_hash(msg, &end->peer_key, BPF_F_INGRESS) != SK_PASS) {
		end->redirected_messages--;
		return REFUSED;
	}
	note_redirect(end, size);
	return NO_REASON;
}

int sockaccel_msg(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct target *target;
	u32 reason, size, slot;
	struct end *end;
	void *sock;

	/* A socket of the start-up probes, or one that belongs to nobody. */
	if (!sk)
		return SK_PASS;
	end = sa_ends.sk_storage_get(sk, 0, 0);
	sock = TCP_SOCK(sk);
	if (!end || !sock)
		return SK_PASS;
	/* A call that began before the socket left the map still has the verdict. */
	if (!end->in_map)
		return SK_PASS;
	slot = end->slot;
	target = sa_targets.lookup(&slot);
	if (!target)
		return SK_PASS;
	if (!end->sender_known)
		note_sender(end);

	count_tcp_bytes(end, OWN(u32, sock, OFFSET_tcp_sock_write_seq));
	size = msg->size;
	reason = reason_in_sender(end, target, sock);
	if (!reason)
		reason = await_peer(end, sock);
	if (!reason)
		reason = reason_in_peer(end, target, sock, size);
	if (!reason)
		reason = redirect(msg, end, size);
	if (!reason)
		return SK_PASS;
	/* Better an error in send() than a reader that gets bytes in the wrong order. */
	if (end->redirected_messages && sock_cookie(end->peer_sock) == end->peer_cookie && would_overtake(end)) {
		count(end->slot, OVERTAKING, 1);
		return SK_DROP;
	}
	note_behind(end, reason, size);
	note_tcp(end, sock, reason);
	return SK_PASS;
}
