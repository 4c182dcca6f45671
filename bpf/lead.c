/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Leads connections of targets to a proxy on this host (docs/sidecar.md). connect() of a target gets the proxy's
 * address in the place of the one that was asked for. The proxy asks for that by SO_ORIGINAL_DST, as it does behind
 * netfilter's REDIRECT, and getpeername() of the application answers with it.
 */
#include "lib/sock.h"

#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80
#define EADDRNOTAVAIL 99
#define ECONNREFUSED 111

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
 * What becomes of a connect() to where `wanted` says. With LEAD, `wanted` is complete, and *port is the proxy's.
 */
static inline enum decision decide(struct bpf_sock_addr *ctx, u64 sock, struct origin *wanted, u32 *port)
{
	u32 loopback[4] = {}, listener, owner = owner_by_name(READ_U64(sock, OFFSET_sock_cgroup));
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

static inline int refuse_connect(int error)
{
	set_return_value(-error);
	return 0;
}

/*
 * A connect() that is not led by us. If it goes to an entrance which it may pass, there must be room to note that:
 * the proxy would otherwise be led to itself, and again, without end.
 */
static inline int go_direct(u64 sock, const struct origin *wanted)
{
	u64 *past;
	int zero = 0;
	u32 slot = slot_to_pass(sock, wanted->address, wanted->port);

	if (!slot)
		return 1;
	past = sa_past_count.lookup(&zero);
	if (past && *past < MAX_PAST - PAST_RESERVE)
		return 1;
	count_led(slot, LEAD_NO_ROOM);
	return refuse_connect(EADDRNOTAVAIL);
}

int sockaccel_lead4(struct bpf_sock_addr *ctx)
{
	struct origin wanted = {};
	struct bpf_sock *sk = ctx->sk;
	u32 port = 0, address = ctx->user_ip4;
	enum decision decision;
	u64 sock;

	if (!sk)
		return 1;
	wanted.port = bpf_ntohs(FIELD(ctx->user_port));
	sock = begin_connect(ctx, sk);
	if (!sock)
		return 1;
	wanted.address[2] = bpf_htonl(0xffff);
	/* To connect to 0.0.0.0 is to connect to 127.0.0.1. */
	wanted.address[3] = address ? address : bpf_htonl(0x7f000001);
	decision = decide(ctx, sock, &wanted, &port);
	if (decision == DIRECT)
		return go_direct(sock, &wanted);
	if (decision == REFUSE || !keep_origin(sk, &wanted))
		return refuse_connect(ECONNREFUSED);
	ctx->user_ip4 = bpf_htonl(0x7f000001);
	ctx->user_port = bpf_htons(port);
	return 1;
}

int sockaccel_lead6(struct bpf_sock_addr *ctx)
{
	struct origin wanted = {};
	struct bpf_sock *sk = ctx->sk;
	u32 port = 0;
	enum decision decision;
	u64 sock;

	if (!sk)
		return 1;
	wanted.port = bpf_ntohs(FIELD(ctx->user_port));
	wanted.address[0] = FIELD(ctx->user_ip6[0]);
	wanted.address[1] = FIELD(ctx->user_ip6[1]);
	wanted.address[2] = FIELD(ctx->user_ip6[2]);
	wanted.address[3] = FIELD(ctx->user_ip6[3]);
	sock = begin_connect(ctx, sk);
	if (!sock)
		return 1;
	/* To connect to [::] is to connect to [::1], and to ::ffff:0.0.0.0 to 127.0.0.1. */
	if (!wanted.address[0] && !wanted.address[1] && !wanted.address[3]) {
		if (!wanted.address[2])
			wanted.address[3] = bpf_htonl(1);
		else if (is_mapped(wanted.address))
			wanted.address[3] = bpf_htonl(0x7f000001);
	}
	decision = decide(ctx, sock, &wanted, &port);
	if (decision == DIRECT)
		return go_direct(sock, &wanted);
	if (decision == REFUSE || !keep_origin(sk, &wanted))
		return refuse_connect(ECONNREFUSED);
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

static inline struct origin *origin_of_led(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct origin *origin = sk ? sa_origins.sk_storage_get(sk, 0, 0) : NULL;

	return origin && !origin->accepted ? origin : NULL;
}

int sockaccel_name4(struct bpf_sock_addr *ctx)
{
	struct origin *origin = origin_of_led(ctx);

	if (!origin)
		return 1;
	ctx->user_ip4 = origin->address[3];
	ctx->user_port = bpf_htons(origin->port);
	return 1;
}

int sockaccel_name6(struct bpf_sock_addr *ctx)
{
	struct origin *origin = origin_of_led(ctx);

	if (!origin)
		return 1;
	ctx->user_ip6[0] = origin->address[0];
	ctx->user_ip6[1] = origin->address[1];
	ctx->user_ip6[2] = origin->address[2];
	ctx->user_ip6[3] = origin->address[3];
	ctx->user_port = bpf_htons(origin->port);
	return 1;
}

static inline void changed_waiting(s64 by)
{
	u64 *waiting;
	u32 *drains;
	int zero = 0;

	waiting = sa_led_count.lookup(&zero);
	if (!waiting)
		return;
	__sync_fetch_and_add(waiting, by);
	drains = sa_lead_drains.lookup(&zero);
	if (drains && *drains && !*waiting)
		tell(0, LEAD_DRAINED, 0);
}

/*
 * The SYN of a led connection is about to be sent. What the proxy's end shall find is left under the flow that it
 * will have, and with the sequence number that proves that the two belong together.
 */
static inline void on_led_connect(struct bpf_sock_ops *ops, struct origin *origin, u64 sock)
{
	struct flow own = {}, key = {};
	struct origin left = *origin;

	origin->sequence = left.sequence = READ_U32(sock, OFFSET_tcp_sock_write_seq);
	origin->cookie = left.cookie = bpf_get_socket_cookie(ops);
	left.accepted = 1;
	read_flow(sock, &own);
	mirror(&own, &key);
	/* The flags are shared by all programs. */
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	if (sa_led.update(&key, &left))
		count_led(left.slot, LEAD_NO_ROOM);
	else
		changed_waiting(1);
}

/* A led connection is closed. If its proxy never accepted it, the entry is still there. */
static inline void on_led_close(struct origin *origin, u64 sock)
{
	struct flow own = {}, key = {};
	struct origin *left;
	u64 cookie = origin->cookie;

	read_flow(sock, &own);
	mirror(&own, &key);
	left = sa_led.lookup(&key);
	if (left && left->cookie == cookie && !sa_led.delete(&key))
		changed_waiting(-1);
}

static inline void on_accepted(struct bpf_sock *sk, u64 sock)
{
	struct flow own = {};
	struct origin *left, *origin, copy;
	u32 sequence;

	read_flow(sock, &own);
	left = sa_led.lookup(&own);
	if (!left) {
		on_accepted_inbound(sk, sock, &own);
		return;
	}
	copy = *left;
	/* With Fast Open the SYN has brought bytes already. */
	sequence = READ_U32(sock, OFFSET_tcp_sock_rcv_nxt) - (u32)READ_U64(sock, OFFSET_tcp_sock_bytes_received);
	if (sequence != copy.sequence + 1)
		return;
	if (!sa_led.delete(&own))
		changed_waiting(-1);
	origin = sa_origins.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (origin)
		*origin = copy;
	else
		count_led(copy.slot, LEAD_NO_ROOM);
}

/* Returns 1 always: see sockaccel_join(). */
int sockaccel_led(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct origin *origin;
	u64 sock;

	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ops->args[1] == TCP_CLOSE)
			break;
		return 1;
	default:
		return 1;
	}
	if (!sk)
		return 1;
	sock = (u64)bpf_skc_to_tcp_sock(sk);
	if (!sock)
		return 1;
	if (ops->op == BPF_SOCK_OPS_TCP_LISTEN_CB) {
		on_listen(ops, sock);
		return 1;
	}
	if (ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		on_accepted(sk, sock);
		return 1;
	}
	origin = sa_origins.sk_storage_get(sk, 0, 0);
	if (!origin) {
		if (ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
			on_direct_connect(ops, sock);
		else
			on_direct_close(sock);
		return 1;
	}
	if (origin->accepted)
		return 1;
	if (ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		on_led_connect(ops, origin, sock);
	else
		on_led_close(origin, sock);
	return 1;
}

/* struct sockaddr_in and sockaddr_in6 */
struct address4 {
	u16 family;
	u16 port;
	u32 address;
	u64 zero;
};
struct address6 {
	u16 family;
	u16 port;
	u32 flow;
	u32 address[4];
	u32 scope;
};

static inline int write4(struct bpf_sockopt *ctx, const struct origin *origin)
{
	struct address4 *to = ctx->optval;

	if ((void *)(to + 1) > ctx->optval_end)
		return 0;
	to->family = AF_INET;
	to->port = bpf_htons(origin->port);
	to->address = origin->address[3];
	to->zero = 0;
	*(volatile s32 *)&ctx->optlen = sizeof(*to);
	return 1;
}

static inline int write6(struct bpf_sockopt *ctx, const struct origin *origin)
{
	struct address6 *to = ctx->optval;

	if ((void *)(to + 1) > ctx->optval_end)
		return 0;
	to->family = AF_INET6;
	to->port = bpf_htons(origin->port);
	to->flow = 0;
	to->address[0] = origin->address[0];
	to->address[1] = origin->address[1];
	to->address[2] = origin->address[2];
	to->address[3] = origin->address[3];
	to->scope = 0;
	*(volatile s32 *)&ctx->optlen = sizeof(*to);
	return 1;
}

/*
 * getsockopt() of a proxy. Whatever the kernel says of SO_ORIGINAL_DST, which depends on whether netfilter is loaded,
 * a led connection has an answer.
 */
int sockaccel_asked(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct origin *origin;
	int level = ctx->level, written;

	if (ctx->optname != SO_ORIGINAL_DST || (level != SOL_IP && level != SOL_IPV6) || !sk) {
		/* A larger answer than this program may see: 0 leaves it to the kernel as it is. */
		if (ctx->optlen > MEMORY_PAGE)
			ctx->optlen = 0;
		return 1;
	}
	origin = sa_origins.sk_storage_get(sk, 0, 0);
	if (!origin || !origin->accepted)
		return 1;
	if (level == SOL_IP && !is_mapped(origin->address))
		return 1;
	written = level == SOL_IP ? write4(ctx, origin) : write6(ctx, origin);
	if (!written)
		return 1;
	*(volatile s32 *)&ctx->retval = 0;
	count_led(origin->slot, LEAD_ORIGIN_GIVEN);
	return 1;
}

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	struct origin *value;
};

struct seq_file_of_meta {
	struct seq_file *seq;
};

/* Prints every socket that was led out. */
int bpf_iter__bpf_sk_storage_map(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct origin *origin = ctx->value;
	struct led led = {};

	if (!origin || !ctx->sk || origin->accepted || !origin->cookie)
		return 0;
	led.cookie = origin->cookie;
	led.netns = sock_netns((u64)ctx->sk);
	__builtin_memcpy(led.address, origin->address, sizeof(led.address));
	led.port = origin->port;
	bpf_seq_write(((struct seq_file_of_meta *)ctx->meta)->seq, &led, sizeof(led));
	return 0;
}
