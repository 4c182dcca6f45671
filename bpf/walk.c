/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Walks over every end of a covered connection, in all network namespaces (an iterator over socket storage). The
 * daemon writes to sa_settings what the walk does: list the ends, judge them, or evict those that are marked.
 */

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	struct end *value;
};

/* Returns 1 when there is no room: the kernel then interrupts the walk, and goes on with this end. */
static inline int list(struct end *end, u64 sock, struct settings *settings)
{
	u32 index = settings->listed, reason = end->reason;
	struct event *line = sa_listing.lookup(&index);

	if (!line)
		return 1;
	/* Its connect() failed, or it was disconnected. It is no connection, and another socket may have its flow by now. */
	if (sock_state(sock) == TCP_CLOSE && (end->state == CONNECTING || !READ_AS(u16, sock, OFFSET_sock_dport)))
		return 0;
	if (reason >= COUNTERS_COUNT || (end->state == JOINED && !end->last_by_tcp))
		reason = NO_REASON;
	describe(line, end, sock, EVENT_CONNECTION, reason, since_ns_of(end));
	if (end->beat && sock_cookie(end->peer_sock) == end->peer_cookie &&
	    READ_U32(sock, OFFSET_tcp_sock_write_seq) != READ_U32(end->peer_sock, OFFSET_tcp_sock_copied_seq))
		line->flags |= EVENT_AWAITS_HEARTBEAT;
	settings->listed = index + 1;
	return 0;
}

/*
 * Whether the walk has met so many ends that it must interrupt itself. The kernel holds an RCU read lock while it
 * shows the ends of a bucket, and without full preemption nobody else has the CPU meanwhile.
 */
static inline int part_is_over(struct settings *settings)
{
	if (settings->rest_of_part) {
		settings->rest_of_part--;
		return 0;
	}
	settings->rest_of_part = MAX_WALKED;
	return 1;
}

/* A walk over open files may find the client of an accepting end, once the connection is old enough to join. */
static inline void await_client(struct end *end, struct sock *sk, struct settings *settings)
{
	struct target *target = target_of(end);

	if (!is_enabled(target, end) || !(target->flags & TARGET_ADOPTS) || sock_state((u64)sk) != TCP_ESTABLISHED)
		return;
	if (since_ns_of(end) + target->join_after_ns > bpf_ktime_get_ns())
		walk_at(settings, since_ns_of(end) + target->join_after_ns);
	else
		settings->unseen_clients++;
}

/* Counts an end that was judged; keeps no more of those that stay with TCP than there are places for. */
static inline void take_census(struct end *end, struct sock *sk, struct settings *settings)
{
	/* A target may have many of these, and they are nothing to list. */
	if (end->state == LEFT && end->reason == NOT_LOCAL) {
		sa_ends.sk_storage_delete(sk);
		return;
	}
	settings->found++;
	if (end->state != LEFT || end->in_map)
		return;
	if (end->reason == CLIENT_UNSEEN && !end->looks)
		await_client(end, sk, settings);
	if (settings->found_left < MAX_MEMBERS) {
		settings->found_left++;
		return;
	}
	settings->found--;
	sa_ends.sk_storage_delete(sk);
}

int bpf_iter__bpf_sk_storage_map(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct seq_file *seq = ((struct seq_file_of_meta *)ctx->meta)->seq;
	struct pair_key own_key, peer_key;
	struct visit visit = {.end = ctx->value, .sk = ctx->sk, .own_key = &own_key, .peer_key = &peer_key};
	struct end *end = visit.end;
	struct flow own_flow = {};
	u32 state, in_call = 0, peer_in_call = 0;
	struct settings *settings;
	int zero = 0;

	if (!end || !visit.sk)
		return 0;
	/* Read before all else: what is read below is complete only if the end was a candidate by now. */
	state = *(volatile u8 *)&end->state;
	barrier();
	visit.sock = (u64)visit.sk;
	/*
	 * The rules may be others than at connect(). Slot 0, which has none, stands for an accepting end. This comes
	 * early because the verifier explores the loop of is_excluded() once for each path that leads there.
	 */
	read_flow(visit.sock, &own_flow);
	visit.excluded = is_excluded(end->slot * end->active, &own_flow, READ_U32(visit.sock, OFFSET_sock_uid));
	settings = sa_settings.lookup(&zero);
	visit.settings = settings;
	if (!settings)
		return 0;
	if (settings->walk != WALK_LIST && part_is_over(settings))
		return 1;
	if (sock_cookie(visit.sock) != end->cookie)
		return 0;
	if (settings->walk != WALK_LIST && state == LEFT && !end->in_map) {
		if (settings->walk == WALK_JUDGE)
			take_census(end, visit.sk, settings);
		return 0;
	}
	if (settings->walk == WALK_EVICT) {
		if (!end->marked || !end->in_map)
			return 0;
		/* Computed before the branches: the verifier would otherwise explore the loop once for each
		 * path. */
		in_call = is_in_call(visit.sock);
		peer_in_call = is_in_call(sock_with(end->peer_sock, end->peer_cookie));
	}
	/* The socket is closed. The kernel has taken it out of the map, and its key may be another socket's. */
	if (end->in_map && !sock_psock(visit.sock)) {
		end->in_map = 0;
		end->state = LEFT;
		if (settings->walk == WALK_EVICT)
			return 0;
	}
	if (settings->walk == WALK_LIST)
		return list(end, visit.sock, settings);
	find_both_ends(&visit);
	if (settings->walk == WALK_EVICT) {
		evict(&visit, seq, in_call, peer_in_call);
		return 0;
	}
	if (state == CANDIDATE)
		judge_candidate(&visit);
	if (end->in_map) {
		tell_broken(end, settings);
		judge_member(&visit);
	}
	take_census(end, visit.sk, settings);
	return 0;
}
