/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Leads connections that are made to targets (docs/sidecar.md). When one comes for an entrance (entrances.c), the
 * kernel asks a program in the network namespace which listener shall have it (sk_lookup): the proxy's, which is a door
 * (doors.c). Addresses stay as they are, so SO_ORIGINAL_DST is the socket's own.
 */
#include "lib/sock.h"

/* The proxy has accepted a connection that was not led out. If it came by an entrance it is answered for. */
static inline void on_accepted_inbound(struct bpf_sock *sk, u64 sock, const struct flow *own)
{
	u32 network = network_of(sock), slot;
	struct interception *lead;
	struct origin *origin;
	struct flow flow = *own;

	slot = network ? slot_of_entrance(network, own->local, own->local_port) : 0;
	lead = slot ? sa_leads.lookup(&slot) : NULL;
	if (!lead || owner_by_id(READ_U64(sock, OFFSET_sock_cgroup)) != lead->proxy)
		return;
	/* A proxy inside of the unit has the same owner as the listener that it connects to. */
	flow.netns = network;
	if (sa_past.lookup(&flow))
		return;
	count_led(slot, LEAD_LED_IN);
	origin = sa_origins.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!origin) {
		count_led(slot, LEAD_NO_ROOM);
		return;
	}
	__builtin_memcpy(origin->address, own->local, sizeof(origin->address));
	origin->port = own->local_port;
	origin->slot = slot;
	origin->accepted = 1;
}

static inline void read_lookup(struct bpf_sk_lookup *ctx, u32 network, struct flow *flow)
{
	flow->netns = network;
	flow->local_port = FIELD(ctx->local_port);
	flow->remote_port = bpf_ntohs(FIELD(ctx->remote_port));
	if (ctx->family == AF_INET) {
		flow->local[2] = flow->remote[2] = bpf_htonl(0xffff);
		flow->local[3] = FIELD(ctx->local_ip4);
		flow->remote[3] = FIELD(ctx->remote_ip4);
		return;
	}
	flow->local[0] = FIELD(ctx->local_ip6[0]);
	flow->local[1] = FIELD(ctx->local_ip6[1]);
	flow->local[2] = FIELD(ctx->local_ip6[2]);
	flow->local[3] = FIELD(ctx->local_ip6[3]);
	flow->remote[0] = FIELD(ctx->remote_ip6[0]);
	flow->remote[1] = FIELD(ctx->remote_ip6[1]);
	flow->remote[2] = FIELD(ctx->remote_ip6[2]);
	flow->remote[3] = FIELD(ctx->remote_ip6[3]);
}

/* Which listener has a new connection. SK_DROP: it is refused, as where nobody listens. */
static inline int look_up(struct bpf_sk_lookup *ctx, u32 network)
{
	struct inbound_key key = {};
	struct interception *lead;
	struct inbound *inbound;
	struct flow flow = {};
	u32 slot;

	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	read_lookup(ctx, network, &flow);
	slot = slot_of_entrance(network, flow.local, flow.local_port);
	if (!slot)
		return SK_PASS;
	lead = sa_leads.lookup(&slot);
	key.slot = slot;
	key.port = flow.local_port;
	inbound = sa_inbound.lookup(&key);
	if (!lead || !inbound || !(lead->flags & INTERCEPTION_ON) || sa_past.lookup(&flow))
		return SK_PASS;
	if (take_to_any(ctx, network, inbound->port, lead->proxy)) {
		note_proxy(slot, inbound->which, inbound->port, 0);
		return SK_PASS;
	}
	note_proxy(slot, inbound->which, inbound->port, 1);
	if (lead->flags & INTERCEPTION_BYPASS) {
		count_led(slot, LEAD_BYPASSED_IN);
		return SK_PASS;
	}
	count_led(slot, LEAD_PROXY_DOWN_IN);
	return SK_DROP;
}

/*
 * The kernel does not tell such a program in which network namespace it runs. So the loader makes one for each number,
 * which it writes in the place of this one (sockaccel/kernel/lead_programs.py).
 */
int sockaccel_network(struct bpf_sk_lookup *ctx)
{
	u64 number;

	asm volatile("%0 = 0x6e6574776f726b ll" : "=r"(number));
	return look_up(ctx, number);
}
