/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A pause: a connection leaves the map for a while when TCP carries nearly all its messages (PAUSE_MESSAGES), and
 * is a candidate again afterwards. The first pause takes a second, each one twice the last, up to 64 s. To come
 * back costs as much as a tenth of a second in which nothing is sent, because both ends must be seen outside any
 * call. A stream of small messages would gain nothing, and begins with the fourth pause.
 */

#define FIRST_PAUSE_NS 1000000000ULL
#define PAUSE_DOUBLINGS 6
#define SMALL_DOUBLINGS 3

/* The same for both ends, whichever of them fell behind. */
static inline u64 pause_ns(struct visit *visit)
{
	struct peer_entry *peer_entry = visit->peer_entry;
	u32 small = noted(visit->own_entry->small_messages, visit->end->cookie) ||
		    (peer_entry && noted(peer_entry->small_messages, visit->peer_cookie));
	u32 doublings = visit->end->pauses - 1 + (small ? SMALL_DOUBLINGS : 0);

	return FIRST_PAUSE_NS << (doublings < PAUSE_DOUBLINGS ? doublings : PAUSE_DOUBLINGS);
}

/*
 * Makes a member that has left the map a candidate again, to be judged after the pause. The marks stay until
 * came_back(): a verdict that is under way in an older call must still find them.
 */
static inline void pause(struct visit *visit)
{
	struct end *end = visit->end;

	count_pause(end);
	end->looks = 0;
	judge_after(end, pause_ns(visit));
	end->state = CANDIDATE;
	visit->own_entry->joined = 0;
	walk_at(visit->settings, due_ns_of(end, bpf_ktime_get_ns()));
}

/*
 * Whether a paused end may join again; its marks are then removed. Both ends must have left the map, and no call
 * may be in progress that began when they were members. The kernel keeps the psock for such a call. If the end
 * joined with a new psock, is_in_call() would not see the call.
 */
static inline int came_back(struct visit *visit)
{
	struct peer_entry *entry = visit->peer_entry;
	struct end *end = visit->end;

	if (sock_psock(visit->sock))
		return 0;
	if (entry && peer_marked(visit)) {
		if (peer_joined(visit) || (visit->peer_sock && sock_psock(visit->peer_sock)))
			return 0;
		entry->marked = 0;
	}
	visit->own_entry->marked = 0;
	end->peer_joined = 0;
	end->peer_file = 0;
	end->behind = 0;
	end->small_messages = 0;
	end->last_by_tcp = 0;
	/* Removed last: this is the mark that a verdict of this end looks at. */
	barrier();
	end->marked = 0;
	return 1;
}

/* A pause ends for both ends at once: the peer has joined again. */
static inline int peer_ended_pause(struct visit *visit)
{
	return visit->end->marked && peer_joined(visit) && !peer_marked(visit);
}
