/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Origins: where led connections wanted to go. The connecting socket keeps its own, the accepting one of the proxy
 * gets it, and both are asked for it.
 */
#include "lib/sock.h"

#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80

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
 * The origin of a connection that came in and was accepted while an earlier daemon's maps were in use: nothing was
 * translated, so it is the socket's own address. Returns 0 for any other one. What was led out has a port of the proxy,
 * and must not be told that: the proxy would connect to itself.
 */
static inline int own_address(const struct bpf_sock *sk, struct origin *own)
{
	struct inbound_key key = {.port = FIELD(sk->src_port)};
	u32 family = FIELD(sk->family);

#pragma clang loop unroll(disable)
	for (u32 slot = 1; slot < MAX_INTERCEPTIONS; slot++) {
		key.slot = slot;
		if (!sa_inbound.lookup(&key))
			continue;
		own->slot = slot;
		own->port = key.port;
		if (family == AF_INET) {
			own->address[2] = bpf_htonl(0xffff);
			own->address[3] = FIELD(sk->src_ip4);
		} else {
			own->address[0] = FIELD(sk->src_ip6[0]);
			own->address[1] = FIELD(sk->src_ip6[1]);
			own->address[2] = FIELD(sk->src_ip6[2]);
			own->address[3] = FIELD(sk->src_ip6[3]);
		}
		return 1;
	}
	return 0;
}

/*
 * getsockopt() of a proxy. Whatever the kernel says of SO_ORIGINAL_DST, which depends on whether netfilter is loaded,
 * a led connection has an answer.
 */
int sockaccel_asked(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct origin *origin, own = {};
	int level = ctx->level, written;

	if (ctx->optname != SO_ORIGINAL_DST || (level != SOL_IP && level != SOL_IPV6) || !sk) {
		/* A larger answer than this program may see: 0 leaves it to the kernel as it is. */
		if (ctx->optlen > MEMORY_PAGE)
			ctx->optlen = 0;
		return 1;
	}
	origin = sa_origins.sk_storage_get(sk, 0, 0);
	if (!origin) {
		if (FIELD(sk->state) == TCP_LISTEN || !own_address(sk, &own))
			return 1;
		origin = &own;
	} else if (!origin->accepted) {
		return 1;
	}
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
