/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An end of a covered connection, from the moment at which it is first seen. */

/*
 * A message that goes by TCP costs a quarter to a half more for a member than for a plain socket. A connection
 * leaves for a pause when an end's `behind` reaches PAUSE_MESSAGES. Each message that TCP carries because the
 * reader is behind adds one, and each redirected message takes REDIRECT_WEIGHT off.
 */
#define PAUSE_MESSAGES 2048
#define REDIRECT_WEIGHT 8

/* When a candidate must be judged: so many ns from now. */
static inline void judge_after(struct end *end, u64 delay_ns)
{
	end->due = (bpf_ktime_get_ns() + delay_ns) >> DUE_SHIFT;
}

/* The same on CLOCK_MONOTONIC, in ns. now: of the same clock. */
static inline u64 due_ns_of(struct end *end, u64 now)
{
	u64 unit = now >> DUE_SHIFT;

	return (unit + (s32)(end->due - (u32)unit)) << DUE_SHIFT;
}

static inline u64 since_ns_of(struct end *end)
{
	return (u64)end->since << SINCE_SHIFT;
}

static inline void count_pause(struct end *end)
{
	if (end->pauses < MANY_PAUSES)
		end->pauses++;
}

/* An end before anything of it is kept. */
struct new_end {
	struct flow own_flow;
	struct pair_key own_key;
	struct pair_key peer_key;
	u64 sock;
	u64 cookie;
	/* That of the other end, if it was established first. */
	u64 peer_cookie;
	u32 slot;
	u32 generation;
	u32 active;
	u32 by_listener;
	u32 pid;
	/* Of its program, enum knowledge_flag. */
	u32 knowledge;
	char comm[16];
};

static inline void begin(struct end *end, const struct new_end *new_end)
{
	u32 slot = new_end->slot;
	struct target *target = sa_targets.lookup(&slot);

	end->is_ipv4 = is_v4(new_end->own_flow.local);
	end->peer_key = new_end->peer_key;
	end->cookie = new_end->cookie;
	end->peer_cookie = new_end->peer_cookie;
	end->since = bpf_ktime_get_ns() >> SINCE_SHIFT;
	end->slot = new_end->slot;
	end->generation = new_end->generation;
	end->policy = target ? target->policy : 0;
	end->active = new_end->active;
	end->by_listener = new_end->by_listener;
	end->pid = new_end->pid;
	if (new_end->knowledge & KNOWN_BLOCKS)
		end->reads = READS_BLOCKED;
	end->owner_unknown = !new_end->active && new_end->knowledge & KNOWN_LISTENS;
	__builtin_memcpy(end->comm, new_end->comm, sizeof(end->comm));
}

/*
 * Leaves an entry under an end's key, by which the other end finds it. Two sockets that claim the same key are neither:
 * whoever knows the numbers of a connection could have made one of them. An entry whose socket is gone is replaced.
 * Returns NO_REASON, or why the end cannot be a candidate.
 */
static inline u32 leave_entry(struct end *end, u64 sock)
{
	struct peer_entry entry = {
		.sock = sock,
		.cookie = end->cookie,
		.peer_cookie = end->peer_cookie,
		.slot = end->slot,
		.generation = end->generation,
		.active = end->active,
		.by_listener = end->active ? end->by_listener : 0,
		.end = (u64)end,
	};
	struct peer_entry *other;
	struct pair_key key;
	int error;

	swap_key(&end->peer_key, &key);
	error = sa_peers.insert(&key, &entry);
	other = error == -EEXIST ? sa_peers.lookup(&key) : NULL;
	if (other && other->cookie != entry.cookie && sock_cookie(other->sock) == other->cookie) {
		other->refused = note(other->cookie, TWICE_CLAIMED);
		want_sweep(SWEEP_NOW);
		return TWICE_CLAIMED;
	}
	if (error == -EEXIST)
		error = sa_peers.update(&key, &entry);
	return error ? MAP_FULL : NO_REASON;
}

/* Tells the other end, if it is a candidate, why the connection stays with TCP. cookie: of that end, or 0. */
static inline void tell_other(struct end *end, u64 cookie, u32 reason)
{
	struct pair_key key = end->peer_key;
	struct peer_entry *other = cookie ? sa_peers.lookup(&key) : NULL;

	if (other)
		other->refused = note(cookie, reason);
}

/* Why a socket can never join. */
static inline u32 reason_against(u64 sock)
{
	/* Asked before KERNEL_SOCKET: the kernel itself makes the subflows of an MPTCP socket. */
	if (sock_is_mptcp(sock))
		return MPTCP;
	if (READ_BITS(sock, sock_kern_sock))
		return KERNEL_SOCKET;
	if (READ_BITS(sock, tcp_sock_repair))
		return REPAIR;
	/* The kernel numbers the completions of such a socket wrongly as soon as it is a member. */
	if (sock_zerocopies(sock))
		return ZEROCOPY_END;
	return NO_REASON;
}

/*
 * Whether what TCP carries to the peer would overtake redirected bytes: splice() does not find those. The caller has
 * compared the cookie of the peer's socket.
 */
static inline int would_overtake(struct end *end)
{
	if (!end->peer_joined || !end->redirected_messages ||
	    !READ_U8(end->peer_end, __builtin_offsetof(struct end, spliced)))
		return 0;
	return READ_U8(end->peer_end, __builtin_offsetof(struct end, spliced_unread)) ||
	       sock_holds_redirected(end->peer_sock);
}

/*
 * Why two ends may not meet because of the network namespaces that they are in; judge.c has the why. slot: of the target
 * whose policy counts. has_both: whether it has both ends in its cgroups.
 */
static inline u32 reason_in_namespaces(u64 sock, u64 other, u32 slot, u32 has_both)
{
	if (is_same_namespace(sock, other))
		return NO_REASON;
	if (!has_both || !allows_other_namespaces(slot))
		return OTHER_NAMESPACE;
	return sock_owner(sock) == sock_owner(other) ? NO_REASON : FOREIGN_OWNER;
}
