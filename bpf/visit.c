/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One end as a walk meets it, together with its peer. */
#include "lib/sock.h"

/*
 * The walk neither holds a reference to the socket nor its lock: the socket may be closed at any moment, and its
 * memory may become another socket. sock is sk as a number, peer_sock the peer's socket or 0; own_entry and
 * peer_entry are what the two ends left in sa_peers, or NULL. They may become another end's, so only notes with
 * end->cookie and peer_cookie are believed. own_key and peer_key are on the stack, because the verifier of 6.1
 * takes no key from the value that an iterator shows.
 */
struct visit {
	struct end *end;
	struct sock *sk;
	u64 sock;
	u64 peer_sock;
	u64 peer_cookie;
	struct pair_key *own_key;
	struct pair_key *peer_key;
	struct peer_entry *own_entry;
	struct peer_entry *peer_entry;
	struct settings *settings;
	/* The target's rules leave the connection to TCP. Only its connecting end knows. */
	u32 excluded;
};

/* How often a walk looks for a moment in which an end is in no call: the owner of a stream is in one most of the time. */
#define LOOKS_FOR_GAP 256

/* A peer's socket while its cookie proves that it still is; 0 otherwise. */
static inline u64 sock_with(u64 sock, u64 cookie)
{
	return sock && sock_cookie(sock) == cookie ? sock : 0;
}

/*
 * Looks both ends up in sa_peers. The keys alone do not prove that an entry is the peer's: a socket can be made to
 * claim any key (TCP_REPAIR), and the entry may become another end's. The end that was established second found the
 * first one, and named it when it left its entry, so exactly one of the two entries has the cookie of the other end.
 */
static inline void find_both_ends(struct visit *visit)
{
	struct peer_entry *entry;
	struct end *end = visit->end;
	u64 sock = 0, cookie = 0;

	*visit->peer_key = end->peer_key;
	swap_key(visit->peer_key, visit->own_key);
	visit->own_entry = sa_peers.lookup(visit->own_key);
	if (visit->own_entry && visit->own_entry->cookie != end->cookie)
		visit->own_entry = NULL;
	entry = sa_peers.lookup(visit->peer_key);
	if (entry) {
		sock = entry->sock;
		cookie = entry->cookie;
		/* Read after the two: while it proves that the entry is the peer's, they are the peer's too. */
		barrier();
		if (*(volatile u64 *)&entry->peer_cookie != end->cookie && cookie != end->peer_cookie)
			entry = NULL;
	}
	visit->peer_entry = entry;
	visit->peer_cookie = end->peer_cookie || !entry ? end->peer_cookie : cookie;
	visit->peer_sock = end->peer_sock || !entry ? end->peer_sock : sock;
	visit->peer_sock = sock_with(visit->peer_sock, visit->peer_cookie);
}

static inline u32 peer_joined(struct visit *visit)
{
	return visit->peer_entry ? noted(visit->peer_entry->joined, visit->peer_cookie) : 0;
}

static inline u32 peer_marked(struct visit *visit)
{
	return visit->peer_entry ? noted(visit->peer_entry->marked, visit->peer_cookie) : 0;
}

/* Why the peer found that the connection stays out. */
static inline u32 told_by_peer(struct visit *visit)
{
	return visit->own_entry ? noted(visit->own_entry->refused, visit->end->cookie) : 0;
}

/* Asks the daemon for another walk at a time. */
static inline void walk_at(struct settings *settings, u64 due_ns)
{
	if (!settings->next_due_ns || due_ns < settings->next_due_ns)
		settings->next_due_ns = due_ns;
}

/* Asks for another walk at once: an end that this one has passed must see a change. */
static inline void walk_again(struct settings *settings)
{
	walk_at(settings, 1);
}
