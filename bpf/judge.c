/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Judges the ends that a walk meets: lets suitable candidates join, leaves the others to TCP, and marks members
 * that must leave the map.
 *
 * A sock_ops program could let a socket join only when the connection is established. That is too early, because
 * being a member is enough to change a socket: a blocking recv() answers EAGAIN, kernel TLS cannot be set up. What
 * a program does with its new socket shows a little later.
 */
#include "lib/options.h"

/* How often a candidate is judged, and when for the second time. Each wait is four times the last. */
#define LOOKS 6
#define SECOND_LOOK_NS 100000000ULL
/*
 * How long to wait for a socket whose lock is held, or which is not quite established. Each wait is twice the last.
 */
#define OWNED_NS 5000000ULL
#define OWNED_DOUBLINGS 7

/* What a sockmap would break in a socket, or a redirect bypass, to it or from it; it lasts. */
static inline u32 reason_against_end(u64 number)
{
	const void *sock = (const void *)number;
	u32 reason = reason_in_options(PROBED, sock);

	if (!reason)
		reason = reason_in_options_of_sender(PROBED, sock);
	if (!reason)
		reason = reason_in_options_of_reader(PROBED, sock);
	return reason_of_connection(reason);
}

/* The same for both ends. peer_sock may be 0. */
static inline u32 reason_against_pair(struct end *end, u64 sock, u64 peer_sock)
{
	u32 reason = reason_against_end(sock);

	if (!reason && peer_sock)
		reason = reason_against_end(peer_sock);
	if (!reason &&
	    namespace_has_policies(PROBED, READ_U64(sock, OFFSET_sock_net), end->is_ipv4 && !end->elsewhere))
		reason = IPSEC_END;
	if (!reason && end->elsewhere && peer_sock &&
	    namespace_has_policies(PROBED, READ_U64(peer_sock, OFFSET_sock_net), 0))
		reason = IPSEC_END;
	return reason;
}

/*
 * Why two ends may not meet because of where they are. In a network namespace of its own any user can give a socket
 * the key that he wants (TCP_REPAIR). So ends in different ones meet only where the administrator allows it, and where
 * the same user namespace rules over both.
 */
static inline u32 reason_between(struct target *target, u64 sock, u64 peer_sock)
{
	if (!peer_sock || is_same_namespace(sock, peer_sock))
		return NO_REASON;
	if (!target || !(target->flags & TARGET_OTHER_NAMESPACES))
		return OTHER_NAMESPACE;
	return sock_owner(sock) == sock_owner(peer_sock) ? NO_REASON : FOREIGN_OWNER;
}

/* Whether one of two ends reads in blocking mode, and was not seen to do it in such a way that it never waits. */
static inline int pair_blocks(struct visit *visit, struct target *target, u64 file, u64 peer_file)
{
	if (target->flags & TARGET_BLOCKING_READERS)
		return 0;
	if (file && file_blocks(file) && visit->end->reads != DONTWAIT_READS)
		return 1;
	return peer_file && file_blocks(peer_file) &&
	       !never_waits(visit->peer_entry ? visit->peer_entry->end : 0, visit->peer_cookie);
}

/* What may still change: programs accept late, and set O_NONBLOCK after that. */
static inline u32 reason_to_wait(struct visit *visit, struct target *target, u64 peer_sock)
{
	u64 file = sock_file(visit->sock), peer_file = peer_sock ? sock_file(peer_sock) : 0;

	if (!peer_sock)
		return LONELY;
	if (!file || !peer_file)
		return UNACCEPTED;
	if (visit->end->owner_unknown) {
		visit->settings->unknown_owners++;
		return UNACCEPTED;
	}
	if (pair_blocks(visit, target, file, peer_file))
		return BLOCKING_END;
	return NO_REASON;
}

/* Why a candidate that is old enough stays with TCP for good; NO_REASON if it may join now or later. */
static inline u32 reason_for_good(struct visit *visit)
{
	struct end *end = visit->end;
	u32 reason = reason_against_pair(visit->end, visit->sock, visit->peer_sock);

	if (end->seen)
		return end->seen;
	if (visit->excluded)
		return EXCLUDED;
	if (!reason)
		reason = reason_between(target_of(end), visit->sock, visit->peer_sock);
	if (reason)
		return reason;
	if (sock_state(visit->sock) != TCP_ESTABLISHED)
		return end->reason ? end->reason : SHORT;
	/* Asked before this end joins: it could not leave while its peer is in a map that is not ours. */
	if (visit->peer_sock && visit->peer_entry && !peer_joined(visit) &&
	    (sock_psock(visit->sock) || sock_psock(visit->peer_sock)))
		return FOREIGN_SOCKMAP;
	return NO_REASON;
}

static inline u32 not_before(struct end *end, u64 delay_ns)
{
	judge_after(end, delay_ns);
	return NOT_YET;
}

static inline u32 wait_for_lock(struct end *end)
{
	u32 doublings = end->waits < OWNED_DOUBLINGS ? end->waits++ : OWNED_DOUBLINGS;

	return not_before(end, OWNED_NS << doublings);
}

/* Whether there was no moment in which nobody held the socket's lock. */
static inline u32 stays_owned(u64 sock)
{
	u32 is_owned = 1;

#pragma clang loop unroll(disable)
	for (int look = 0; look < LOOKS_FOR_GAP; look++) {
		is_owned = sock_is_owned(sock);
		if (!is_owned)
			break;
	}
	return is_owned;
}

/* Returns NO_REASON if a candidate may join now, NOT_YET or GONE, or why it stays with TCP. */
static inline u32 examine(struct visit *visit, struct target *target)
{
	struct end *end = visit->end;
	u64 now = bpf_ktime_get_ns();
	u32 reason;

	if (due_ns_of(end, now) > now && !peer_ended_pause(visit))
		return NOT_YET;
	if (!visit->own_entry)
		return GONE;
	if (end->marked && !came_back(visit)) {
		count_pause(end);
		return not_before(end, pause_ns(visit));
	}
	/* The kernel calls sockaccel_join for an accepting end a moment before it says that the end is
	 * established. */
	if (sock_state(visit->sock) == TCP_SYN_RECV)
		return wait_for_lock(end);
	reason = reason_for_good(visit);
	if (reason)
		return reason;
	reason = reason_to_wait(visit, target, visit->peer_entry ? visit->peer_sock : 0);
	/* Addresses that do not say that the other end is on this host: most such connections go to another one. */
	if (reason == LONELY && !sock_is_local(visit->sock))
		return NOT_LOCAL;
	if (reason) {
		end->reason = reason;
		if (++end->looks < LOOKS)
			return not_before(end, SECOND_LOOK_NS << 2 * (end->looks - 1));
		return reason;
	}
	/* The owner may be in a call that changes what joining changes too. */
	if (stays_owned(visit->sock))
		return wait_for_lock(end);
	return NO_REASON;
}

/* Whether the peer sees the same addresses and ports as this end, the other way round. */
static inline int sees_mirrored(u64 sock, u64 peer_sock)
{
	struct flow flow = {}, peer_flow = {};

	read_flow(sock, &flow);
	read_flow(peer_sock, &peer_flow);
	return same_address(flow.local, peer_flow.remote) && same_address(flow.remote, peer_flow.local) &&
	       flow.local_port == peer_flow.remote_port && flow.remote_port == peer_flow.local_port;
}

static inline u32 reason_of_error(int error)
{
	if (error == -EBUSY)
		return FOREIGN_SOCKMAP;
	if (error == -EEXIST)
		return TWICE_CLAIMED;
	if (error == -E2BIG || error == -ENOMEM)
		return MAP_FULL;
	if (error == -EINVAL)
		return ULP_END;
	return UNSUPPORTED;
}

/*
 * Lets a candidate join. Returns NO_REASON, GONE, or why it cannot. Nobody redirects to it or from it before
 * own_entry says that it has joined, so until then it can be taken out of the map again.
 */
static inline u32 join(struct visit *visit)
{
	struct end *end = visit->end;
	struct peer_entry *own_entry;
	int error;

	/* Set before the socket is in the map: from then on its owner's send() counts. */
	end->counted_sequence = READ_U32(visit->sock, OFFSET_tcp_sock_write_seq);
	end->receive_maximum = sock_receive_maximum(visit->peer_sock);
	end->received = 0;
	end->odd_sender = 0;
	end->elsewhere = !is_same_namespace(visit->sock, visit->peer_sock);
	end->apart = end->elsewhere || !sees_mirrored(visit->sock, visit->peer_sock);
	end->peer_sock = visit->peer_sock;
	end->peer_cookie = visit->peer_cookie;
	if (sock_cookie(visit->sock) != end->cookie)
		return GONE;
	/* insert() and not update(): an older socket under this key may hold bytes that its owner has not read. */
	error = sa_members.insert(visit->own_key, visit->sk);
	own_entry = sa_peers.lookup(visit->own_key);
	/* Closed meanwhile, the socket may be another one by now. */
	if (!own_entry || own_entry->cookie != end->cookie || sock_cookie(visit->sock) != end->cookie) {
		if (!error)
			sa_members.delete(visit->own_key);
		return GONE;
	}
	if (error)
		return reason_of_error(error);
	end->looks = 0;
	end->waits = 0;
	end->state = JOINED;
	end->in_map = 1;
	own_entry->end = (u64)end;
	/* The peer's verdict reads the other members when it sees this one. */
	barrier();
	own_entry->joined = note(end->cookie, 1);
	if (peer_joined(visit) && !end->pauses) {
		count(end->slot, CONNECTIONS, 1);
		if (end->adopted)
			count(end->slot, ADOPTED, 1);
	}
	return NO_REASON;
}

/*
 * Leaves a candidate to TCP. The end that finds the reason first counts it, and tells the peer. Returns 1 if an
 * event should be reported.
 */
static inline int leave_out(struct visit *visit, u32 reason)
{
	struct end *end = visit->end;

	end->state = LEFT;
	end->reason = reason;
	sa_peers.delete(visit->own_key);
	/* The connecting end was closed before, and counted then. */
	if (!end->active && !visit->peer_entry)
		return 0;
	if (visit->peer_entry) {
		visit->peer_entry->refused = note(visit->peer_cookie, reason);
		if (peer_joined(visit))
			walk_again(visit->settings);
	}
	/* A pause was counted when it began. */
	if (reason != PAUSED && reason != end->left_before)
		count(end->slot, reason, 1);
	return 1;
}

/*
 * Gives up a candidate whose target was disabled, or whose peer found a reason against the connection and counted
 * it.
 */
static inline void give_up(struct visit *visit)
{
	struct end *end = visit->end;
	u32 reason = told_by_peer(visit);

	end->state = LEFT;
	end->reason = reason;
	if (end->marked)
		end->marked = reason ? reason : DRAINED;
	sa_peers.delete(visit->own_key);
}

/* Whether it is worth while to watch how a candidate reads: only its blocking mode keeps it out so far. */
static inline int may_be_seen_not_to_wait(struct visit *visit)
{
	u64 file = sock_file(visit->sock);

	return visit->end->reason == BLOCKING_END && visit->end->reads != READS_BLOCKED && file &&
	       file_blocks(file);
}

static inline void judge_candidate(struct visit *visit)
{
	struct target *target = target_of(visit->end);
	struct end *end = visit->end;
	u32 reason;

	if (visit->own_entry && (told_by_peer(visit) || !is_enabled(target, end))) {
		give_up(visit);
		return;
	}
	reason = examine(visit, target);
	if (reason == NOT_YET) {
		if (may_be_seen_not_to_wait(visit))
			visit->settings->blocking++;
		walk_at(visit->settings, due_ns_of(end, bpf_ktime_get_ns()));
		return;
	}
	if (!reason) {
		reason = join(visit);
		/* The peer's pause ends too, and this walk may have passed it. */
		if (!reason && end->pauses && !peer_joined(visit))
			walk_again(visit->settings);
	}
	if (reason == GONE) {
		end->state = LEFT;
		return;
	}
	if (reason && (!leave_out(visit, reason) || reason == NOT_LOCAL))
		return;
	report(end, visit->sock, reason ? EVENT_REFUSED : EVENT_JOINED, reason);
}

static inline u32 reason_to_leave(struct visit *visit)
{
	struct target *target = target_of(visit->end);
	u32 reason;

	if (!is_enabled(target, visit->end))
		return DRAINED;
	if (visit->end->seen)
		return visit->end->seen;
	if (visit->excluded)
		return EXCLUDED;
	reason = reason_against_pair(visit->end, visit->sock, visit->peer_sock);
	if (!reason)
		reason = reason_between(target, visit->sock, visit->peer_sock);
	if (reason)
		return reason;
	if (pair_blocks(visit, target, sock_file(visit->sock), visit->peer_sock ? sock_file(visit->peer_sock) : 0))
		return BLOCKING_END;
	if (visit->end->behind >= PAUSE_MESSAGES)
		return PAUSED;
	return NO_REASON;
}

/* Counts an end that has missed bytes, once: the daemon then aborts its connection if it can. */
static inline void tell_broken(struct end *end, struct settings *settings)
{
	if (!end->spliced_unread || end->told_broken)
		return;
	end->told_broken = 1;
	settings->broken++;
}

/*
 * Marks a member that must leave. Both ends leave or none, so the end that the walk meets second follows the mark
 * of the first. The connection is counted once.
 */
static inline void judge_member(struct visit *visit)
{
	struct peer_entry *own_entry = visit->own_entry, *peer_entry = visit->peer_entry;
	struct end *end = visit->end;
	u32 told = told_by_peer(visit);
	u32 reason = end->marked;

	/* Written again in each walk, like the mark: the note of somebody who was late may have replaced it. */
	if (own_entry)
		own_entry->joined = note(end->cookie, 1);
	if (!told)
		told = peer_marked(visit);
	if (!reason) {
		reason = reason_to_leave(visit);
		if (!reason && !told)
			return;
		end->marked = reason ? reason : told == PAUSED || told == TWICE_CLAIMED ? told : LONELY;
		if (!told && !(reason == PAUSED && end->pauses))
			count(end->slot, reason, 1);
		if (peer_entry && !peer_joined(visit))
			peer_entry->refused = note(visit->peer_cookie, end->marked);
		if (peer_entry && !peer_marked(visit))
			walk_again(visit->settings);
	} else if (reason == PAUSED && !is_enabled(target_of(end), end)) {
		end->marked = DRAINED;
	}
	if (own_entry) {
		own_entry->small_messages = note(end->cookie, end->small_messages);
		own_entry->marked = note(end->cookie, end->marked);
	}
	visit->settings->leaving++;
}
