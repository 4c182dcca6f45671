/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tells the daemon what happens to ends, by the ring buffer. */

/* The limit holds for all CPUs together. At the turn of a second a race lets a few more through. */
static inline int within_event_limit(u64 now)
{
	int zero = 0;
	struct settings *settings = sa_settings.lookup(&zero);
	struct event_window *window = sa_window.lookup(&zero);
	u64 second = now / 1000000000;

	if (!settings || !window)
		return 0;
	if (window->second != second) {
		window->second = second;
		window->count = 0;
	}
	return __sync_fetch_and_add(&window->count, 1) < settings->events_per_second;
}

/* sock: of the end. What can be read from it is not kept. */
static inline void describe(struct event *event, struct end *end, u64 sock, u32 kind, u32 reason, u64 now)
{
	__builtin_memset(&event->flow, 0, sizeof(event->flow));
	read_flow(sock, &event->flow);
	swap_key(&end->peer_key, &event->key);
	event->time_ns = now;
	event->cookie = end->cookie;
	event->peer_cookie = end->peer_cookie;
	event->cgroup = cgroup_id(sock);
	event->redirected_bytes = end->redirected_bytes;
	event->redirected_messages = end->redirected_messages;
	event->tcp_bytes = end->tcp_bytes;
	event->tcp_messages = end->tcp_messages;
	event->kind = kind;
	event->reason = reason;
	event->slot = end->slot;
	event->generation = end->generation;
	event->active = end->active;
	event->pid = end->pid;
	event->marked = end->marked;
	event->state = end->state;
	event->flags = end->adopted ? EVENT_ADOPTED : 0;
	event->pad = 0;
	__builtin_memcpy(event->program, end->comm, sizeof(event->program));
}

/* Every function is inlined: each place that calls this one costs some 15 ms of compile time at a cold start. */
static inline void report(struct end *end, u64 sock, u32 kind, u32 reason)
{
	u64 now = bpf_ktime_get_ns();
	struct event *event;

	if (!within_event_limit(now)) {
		count(end->slot, EVENTS_SUPPRESSED, 1);
		return;
	}
	event = sa_events.ringbuf_reserve(sizeof(*event));
	if (!event) {
		count(end->slot, EVENTS_LOST, 1);
		return;
	}
	describe(event, end, sock, kind, reason, now);
	sa_events.ringbuf_submit(event, 0);
}

/*
 * Wakes the daemon once until the sweep begins. No limit applies, or sockets that must leave would stay. When the
 * ring buffer is full no event is needed: the daemon reads sa_sweep_wanted whenever it has emptied the buffer.
 */
static inline void want_sweep(u32 urgency)
{
	int zero = 0;
	u32 *wanted = sa_sweep_wanted.lookup(&zero);
	struct event *event;

	if (!wanted || *wanted >= urgency)
		return;
	*wanted = urgency;
	event = sa_events.ringbuf_reserve(sizeof(*event));
	if (!event)
		return;
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = EVENT_SWEEP_WANTED;
	sa_events.ringbuf_submit(event, 0);
}
