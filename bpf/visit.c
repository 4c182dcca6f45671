/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One end as a walk meets it, together with its peer. */
#include "lib/sock.h"

/*
 * The walk neither holds a reference to the socket nor its lock: the socket may be closed at any moment, and its
 * memory may become another socket. sock is sk as a number, peer_sock the peer's socket or 0; own_entry and
 * peer_entry are what the two ends left in sa_peers, or NULL; own_flow and peer_flow are on the stack, because the
 * verifier of 6.1 takes no key from the value that an iterator shows.
 */
struct visit {
	struct end *end;
	struct sock *sk;
	u64 sock;
	u64 peer_sock;
	struct flow *own_flow;
	struct flow *peer_flow;
	struct peer_entry *own_entry;
	struct peer_entry *peer_entry;
	struct settings *settings;
};

/*
 * The peer's socket while its cookie proves that it still is; 0 otherwise. entry is what the peer left, or NULL.
 */
static inline u64 sock_of_peer(struct end *end, struct peer_entry *entry)
{
	if (end->peer_sock)
		return sock_cookie(end->peer_sock) == end->peer_cookie ? end->peer_sock : 0;
	return entry && sock_cookie(entry->sock) == entry->cookie ? entry->sock : 0;
}

/* Looks both ends up in sa_peers; what is there may belong to later sockets with the same addresses. */
static inline void find_both_ends(struct visit *visit)
{
	struct end *end = visit->end;

	*visit->own_flow = end->own_flow;
	*visit->peer_flow = end->peer_flow;
	visit->own_entry = sa_peers.lookup(visit->own_flow);
	if (visit->own_entry && visit->own_entry->cookie != end->cookie)
		visit->own_entry = NULL;
	visit->peer_entry = sa_peers.lookup(visit->peer_flow);
	if (visit->peer_entry && end->peer_cookie && visit->peer_entry->cookie != end->peer_cookie)
		visit->peer_entry = NULL;
	visit->peer_sock = sock_of_peer(end, visit->peer_entry);
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
