/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections of a proxy, or of a target to itself, which pass the entrance of the target. Each is noted under its flow
 * before its SYN leaves.
 */
#include "lib/sock.h"

/* Connections may be between the question whether there is room for them and their note, on every CPU. */
#define PAST_RESERVE 1024

/* The slot of the target at whose entrance a connection arrives, 0 if at none. */
static inline u32 slot_ahead(u64 sock, const u32 *address, u32 port)
{
	u32 network = network_of(sock);

	return network ? slot_of_entrance(network, address, port) : 0;
}

/* Whether the connections of an owner pass the entrance of a target: those of the target itself, and of its proxy. */
static inline int may_pass(u32 slot, u32 owner)
{
	struct interception *lead = sa_leads.lookup(&slot);

	return lead && (owner == lead->proxy || owner == (OWNER_TARGET << 16 | slot));
}

static inline void changed_past(s64 by)
{
	int zero = 0;
	u64 *past = sa_past_count.lookup(&zero);

	if (past)
		__sync_fetch_and_add(past, by);
}

/* The connection of a socket as its other end sees it, in the network with a number. */
static inline void read_passing(u64 sock, u32 network, struct flow *flow)
{
	struct flow own = {};

	read_flow(sock, &own);
	mirror(&own, flow);
	flow->netns = network;
}

/* The SYN of a connection that is not led out is about to be sent: it may pass an entrance. */
static inline void on_direct_connect(struct bpf_sock_ops *ops, u64 sock)
{
	u64 cookie = bpf_get_socket_cookie(ops);
	struct flow flow = {};
	u32 slot, network = network_of(sock);

	if (!network)
		return;
	read_passing(sock, network, &flow);
	slot = slot_ahead(sock, flow.local, flow.local_port);
	if (!slot || !may_pass(slot, owner_by_name(READ_U64(sock, OFFSET_sock_cgroup))))
		return;
	/* The flags are shared by all programs. */
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	if (sa_past.update(&flow, &cookie))
		count_led(slot, LEAD_NO_ROOM);
	else
		changed_past(1);
}

static inline void on_direct_close(u64 sock)
{
	struct flow flow = {};
	u32 network = network_of(sock);
	u64 *cookie;

	if (!network)
		return;
	read_passing(sock, network, &flow);
	cookie = sa_past.lookup(&flow);
	if (cookie && *cookie == sock_cookie(sock) && !sa_past.delete(&flow))
		changed_past(-1);
}

/*
 * Whether a connect() that is not led may go on. If it goes to an entrance which it may pass, there must be room to
 * note that: the proxy would otherwise be led to itself, and again, without end. owner: of the socket.
 */
static inline int may_go_direct(u64 sock, u32 owner, const struct origin *wanted)
{
	u64 *past;
	int zero = 0;
	u32 slot = slot_ahead(sock, wanted->address, wanted->port);

	if (!slot || !may_pass(slot, owner))
		return 1;
	past = sa_past_count.lookup(&zero);
	if (past && *past < MAX_PAST - PAST_RESERVE)
		return 1;
	count_led(slot, LEAD_NO_ROOM);
	return 0;
}
