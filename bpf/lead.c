/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Leads connections of targets to a proxy on this host (docs/sidecar.md). connect() of a target gets the proxy's
 * address in the place of the one that was asked for, which is the connection's origin (origins.c).
 */
#include "lib/sock.h"

#define EADDRNOTAVAIL 99
#define ECONNREFUSED 111
/* The bit in sa_lead_down of the proxy's port for what a target connects to. */
#define OUTBOUND 1

/* By number, for the reason that lib/kernel.h gives for probe_read. */
static int (*set_return_value)(int value) = (void *)BPF_FUNC_set_retval;

/* What becomes of a connect(). */
enum decision {
	DIRECT,
	LEAD,
	REFUSE,
};

/*
 * The owner of the listener that answers a connection to an address of this host, 0 if there is none. A listener on
 * every address answers in this look-up whatever is asked for, so it counts only where the address is certain to be
 * one of this host's.
 */
static inline u32 owner_of_listener(struct bpf_sock_addr *ctx, const u32 *address, u32 port)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *found;
	u32 owner = OWNER_NOBODY, bound[4] = {};
	u64 sock;

	if (is_mapped(address)) {
		tuple.ipv4.daddr = address[3];
		tuple.ipv4.dport = bpf_htons(port);
		found = bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		__builtin_memcpy(tuple.ipv6.daddr, address, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.dport = bpf_htons(port);
		found = bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!found)
		return OWNER_NOBODY;
	sock = (u64)bpf_skc_to_tcp_sock(found);
	if (sock && sock_state(sock) == TCP_LISTEN) {
		read_address(sock, OFFSET_sock_rcv_saddr, OFFSET_sock_v6_rcv_saddr, bound);
		if (is_loopback(address) || same_address(bound, address))
			owner = owner_by_id(READ_U64(sock, OFFSET_sock_cgroup));
	}
	bpf_sk_release(found);
	return owner;
}

static inline int is_left_alone(u32 slot, const struct origin *wanted, u32 uid)
{
	struct rules *rules = sa_lead_rules.lookup(&slot);

	if (!rules)
		return 0;
#pragma clang loop unroll(disable)
	for (int index = 0; index < MAX_RULES; index++) {
		const struct rule *rule = &rules->rule[index];
		u32 number = rule->kind == RULE_PORT ? wanted->port : uid;

		if (rule->kind == RULE_END)
			break;
		if (rule->kind == RULE_ADDRESS) {
			if ((wanted->address[0] & rule->mask[0]) == rule->address[0] &&
			    (wanted->address[1] & rule->mask[1]) == rule->address[1] &&
			    (wanted->address[2] & rule->mask[2]) == rule->address[2] &&
			    (wanted->address[3] & rule->mask[3]) == rule->address[3])
				return 1;
		} else if (number >= rule->first && number <= rule->last) {
			return 1;
		}
	}
	return 0;
}

/*
 * What becomes of a connect() of an owner to where `wanted` says. With LEAD, `wanted` is complete, and *port is the
 * proxy's.
 */
static inline enum decision decide(struct bpf_sock_addr *ctx, u64 sock, u32 owner, struct origin *wanted,
				   u32 *port)
{
	u32 loopback[4] = {}, listener;
	u32 slot = owner & 0xffff;
	struct interception *lead;

	if (owner >> 16 != OWNER_TARGET)
		return DIRECT;
	lead = sa_leads.lookup(&slot);
	if (!lead || !(lead->flags & INTERCEPTION_ON) || !lead->outbound || is_nobodys(wanted->address))
		return DIRECT;
	/* The kernel itself makes these sockets for the application's, whose getpeername() would show the proxy. */
	if (sock_is_mptcp(sock)) {
		count_led(slot, LEAD_MPTCP);
		return DIRECT;
	}
	if (is_left_alone(slot, wanted, READ_U32(sock, OFFSET_sock_uid))) {
		count_led(slot, LEAD_EXCEPTED);
		return DIRECT;
	}
	listener = owner_of_listener(ctx, wanted->address, wanted->port);
	if (listener && (listener == owner || listener == lead->proxy)) {
		count_led(slot, LEAD_OWN_LISTENER);
		return DIRECT;
	}
	if (is_mapped(wanted->address)) {
		loopback[2] = bpf_htonl(0xffff);
		loopback[3] = bpf_htonl(0x7f000001);
	} else {
		loopback[3] = bpf_htonl(1);
	}
	*port = lead->outbound;
	if (owner_of_listener(ctx, loopback, *port) == lead->proxy) {
		note_proxy(slot, OUTBOUND, *port, 0);
		wanted->slot = slot;
		return LEAD;
	}
	note_proxy(slot, OUTBOUND, *port, 1);
	if (lead->flags & INTERCEPTION_BYPASS) {
		count_led(slot, LEAD_BYPASSED);
		return DIRECT;
	}
	count_led(slot, LEAD_PROXY_DOWN);
	return REFUSE;
}

/* Keeps where a socket wanted to go. Returns 0 if there is no memory for it. */
static inline int keep_origin(struct bpf_sock *sk, const struct origin *wanted)
{
	struct origin *origin = sa_origins.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!origin) {
		count_led(wanted->slot, LEAD_NO_ROOM);
		return 0;
	}
	*origin = *wanted;
	count_led(wanted->slot, LEAD_LED);
	return 1;
}

/* The socket of a connect(), 0 if it is none of TCP's. What an earlier connection of it wanted is forgotten. */
static inline u64 begin_connect(struct bpf_sock_addr *ctx, struct bpf_sock *sk)
{
	u64 sock;

	if (ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP)
		return 0;
	sock = (u64)bpf_skc_to_tcp_sock(sk);
	if (sock)
		sa_origins.sk_storage_delete(sk);
	return sock;
}

/*
 * Decides about a connect() to where `wanted` says. Returns the port of the proxy if it is led, otherwise 0. allowed:
 * set to what the program must return, 0 if the connect() fails.
 */
static inline u32 on_connect(struct bpf_sock_addr *ctx, struct origin *wanted, int *allowed)
{
	struct bpf_sock *sk = ctx->sk;
	enum decision decision;
	u32 port = 0, owner;
	u64 sock;

	*allowed = 1;
	if (!sk)
		return 0;
	sock = begin_connect(ctx, sk);
	if (!sock)
		return 0;
	wanted->port = bpf_ntohs(FIELD(ctx->user_port));
	/* Asked once: the name that it reads takes half of the stack, and newer compilers give each of two its own. */
	owner = owner_by_name(READ_U64(sock, OFFSET_sock_cgroup));
	decision = decide(ctx, sock, owner, wanted, &port);
	if (decision == DIRECT) {
		if (may_go_direct(sock, owner, wanted))
			return 0;
		set_return_value(-EADDRNOTAVAIL);
	} else if (decision == LEAD && keep_origin(sk, wanted)) {
		return port;
	} else {
		set_return_value(-ECONNREFUSED);
	}
	*allowed = 0;
	return 0;
}

int sockaccel_lead4(struct bpf_sock_addr *ctx)
{
	u32 address = ctx->user_ip4, port;
	struct origin wanted = {};
	int allowed;

	wanted.address[2] = bpf_htonl(0xffff);
	/* To connect to 0.0.0.0 is to connect to 127.0.0.1. */
	wanted.address[3] = address ? address : bpf_htonl(0x7f000001);
	port = on_connect(ctx, &wanted, &allowed);
	if (!port)
		return allowed;
	ctx->user_ip4 = bpf_htonl(0x7f000001);
	ctx->user_port = bpf_htons(port);
	return 1;
}

int sockaccel_lead6(struct bpf_sock_addr *ctx)
{
	struct origin wanted = {};
	int allowed;
	u32 port;

	wanted.address[0] = FIELD(ctx->user_ip6[0]);
	wanted.address[1] = FIELD(ctx->user_ip6[1]);
	wanted.address[2] = FIELD(ctx->user_ip6[2]);
	wanted.address[3] = FIELD(ctx->user_ip6[3]);
	/* To connect to [::] is to connect to [::1], and to ::ffff:0.0.0.0 to 127.0.0.1. */
	if (!wanted.address[0] && !wanted.address[1] && !wanted.address[3]) {
		if (!wanted.address[2])
			wanted.address[3] = bpf_htonl(1);
		else if (is_mapped(wanted.address))
			wanted.address[3] = bpf_htonl(0x7f000001);
	}
	port = on_connect(ctx, &wanted, &allowed);
	if (!port)
		return allowed;
	if (is_mapped(wanted.address)) {
		ctx->user_ip6[3] = bpf_htonl(0x7f000001);
	} else {
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = 0;
		ctx->user_ip6[3] = bpf_htonl(1);
	}
	ctx->user_port = bpf_htons(port);
	return 1;
}
