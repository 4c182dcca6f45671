/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Takes marked members out of the map.
 *
 * If a socket with unread redirected bytes were deleted from the map, the kernel would drop them without a trace.
 * So eviction takes two walks with an RCU grace period between them. The first marks both ends, after which no
 * verdict redirects any more. The second deletes an end when nothing is queued at it, and no call that had an
 * earlier verdict can still be on its way to the queue.
 */

/*
 * How long to wait for an end that shall pause and is in a call or has unread bytes. Each wait is twice the last.
 */
#define RETRY_NS 10000000ULL
#define RETRY_DOUBLINGS 12

/*
 * Returns 0 if there was a moment without a call in progress: calls that begin later find the marks. A sender of a
 * stream is between two of its calls for a microsecond at most.
 */
static inline u32 is_in_call(u64 sock)
{
	u64 psock = sock_psock(sock);
	u32 references = 1;

	if (!psock)
		return 0;
#pragma clang loop unroll(disable)
	for (int look = 0; look < LOOKS_FOR_GAP; look++) {
		/* One reference is the map's; sendmsg and recvmsg hold another while they run. */
		references = READ_U32(psock, OFFSET_psock_refcnt);
		if (references == 1)
			break;
	}
	return references != 1;
}

/*
 * The queue is asked last: whoever was on the way to it while it was empty has, by then, either been seen in a
 * call or has arrived.
 */
static inline int may_be_deleted(struct visit *visit, u32 in_call, u32 peer_in_call)
{
	struct peer_entry *entry = visit->peer_entry;

	if (visit->end->redirected_messages && in_call)
		return 0;
	if (visit->peer_sock && entry) {
		if (!peer_marked(visit) || (noted(entry->redirected, visit->peer_cookie) && peer_in_call))
			return 0;
	} else if (visit->peer_sock && sock_psock(visit->peer_sock)) {
		return 0;
	}
	/* TCP would carry what a verdict drops. */
	if (visit->peer_sock && would_overtake(visit->end))
		return 0;
	return !sock_holds_redirected(visit->sock);
}

static inline void try_later(struct visit *visit)
{
	struct end *end = visit->end;
	u32 doublings = end->looks < RETRY_DOUBLINGS ? end->looks++ : RETRY_DOUBLINGS;

	walk_at(visit->settings, bpf_ktime_get_ns() + (RETRY_NS << doublings));
}

/* Deletes a marked member if it may be, and prints what became of it for the daemon. */
static inline void evict(struct visit *visit, struct seq_file *seq, u32 in_call, u32 peer_in_call)
{
	struct end *end = visit->end;
	struct event record = {};

	describe(&record, end, visit->sock, EVENT_CONNECTION, end->marked, bpf_ktime_get_ns());
	if (may_be_deleted(visit, in_call, peer_in_call))
		record.kind = EVENT_EVICTED;
	else if (end->marked == PAUSED)
		try_later(visit);
	/* If the buffer is full the kernel shows the end again, with the next buffer: it must not be deleted
	 * yet. */
	if (bpf_seq_write(seq, &record, sizeof(record)) || record.kind != EVENT_EVICTED)
		return;
	if (sa_members.delete(visit->own_key))
		return;
	count_tcp_bytes(end, READ_U32(visit->sock, OFFSET_tcp_sock_write_seq));
	end->reason = end->marked;
	end->in_map = 0;
	if (end->marked == PAUSED && visit->own_entry) {
		pause(visit);
		return;
	}
	end->state = LEFT;
	if (visit->own_entry)
		sa_peers.delete(visit->own_key);
}
