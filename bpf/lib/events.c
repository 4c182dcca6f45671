/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "lib/kernel.h"

/* Atomic although per CPU: a program may be preempted by another one that counts the same. */
static inline void count(u32 slot, u32 counter, u64 amount)
{
	struct counters *counters = sa_counters.lookup(&slot);
	u64 index = counter;

	/* The check and the access go by one register, or the verifier does not see that they belong together. */
	asm volatile("" : "+r"(index));
	if (counters && index < COUNTERS_COUNT)
		__sync_fetch_and_add(&counters->value[index], amount);
}

/*
 * What TCP carried is read off its sequence numbers: a message that the verdict leaves to TCP may be taken in part,
 * and while TCP has no room the kernel repeats the verdict without asking (tcp_bpf_send_verdict()).
 */
static inline void count_tcp_bytes(struct connection *connection, u32 write_sequence)
{
	u32 bytes = write_sequence - connection->counted_sequence;

	if (!bytes || connection->fin_sent || !connection->in_map)
		return;
	connection->counted_sequence = write_sequence;
	connection->tcp_bytes += bytes;
	count(connection->slot, TCP_BYTES, bytes);
}

/* The limit holds for all CPUs together; a race at the turn of a second lets a few more through. */
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

static inline void describe(struct event *event, struct connection *connection, u32 kind, u32 reason, u64 now)
{
	event->flow = connection->own;
	event->time_ns = now;
	event->cookie = connection->cookie;
	event->peer_cookie = connection->peer_cookie;
	event->cgroup = connection->cgroup;
	event->redirected_bytes = connection->redirected_bytes;
	event->redirected_messages = connection->redirected_messages;
	event->tcp_bytes = connection->tcp_bytes;
	event->tcp_messages = connection->tcp_messages;
	event->kind = kind;
	event->reason = reason;
	event->slot = connection->slot;
	event->generation = connection->generation;
	event->active = connection->active;
	event->pid = connection->pid;
	event->marked = connection->marked;
	event->state = connection->state;
	__builtin_memcpy(event->program, connection->comm, sizeof(event->program));
}

static inline void report(struct connection *connection, u32 kind, u32 reason)
{
	u64 now = bpf_ktime_get_ns();
	struct event *event;

	if (!within_event_limit(now)) {
		count(connection->slot, EVENTS_SUPPRESSED, 1);
		return;
	}
	event = sa_events.ringbuf_reserve(sizeof(*event));
	if (!event) {
		count(connection->slot, EVENTS_LOST, 1);
		return;
	}
	describe(event, connection, kind, reason, now);
	sa_events.ringbuf_submit(event, 0);
}

/*
 * Under no limit, since sockets that must leave would stay; but once until the sweep that follows. Where the ring
 * buffer is full the daemon looks at what is wanted when it has emptied it.
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
