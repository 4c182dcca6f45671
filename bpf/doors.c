/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Doors: the listeners of proxies that take connections to targets, in a sockhash. */
#include "lib/sock.h"

/* Whether a listener is one of a proxy, at a port that takes connections to targets. Fills in door but for number. */
static inline int is_door(u64 sock, struct door *door)
{
	struct door_port port = {.port = READ_AS(u16, sock, OFFSET_sock_num)};

	/* Newer kernels let none into a sockmap. */
	if (sock_is_mptcp(sock))
		return 0;
	port.owner = owner_by_name(READ_U64(sock, OFFSET_sock_cgroup));
	if (!port.owner || !sa_door_ports.lookup(&port))
		return 0;
	door->port = port.port;
	door->network = network_of(sock);
	door->family = READ_AS(u16, sock, OFFSET_sock_family);
	return door->network != 0;
}

static inline void on_listen(struct bpf_sock_ops *ops, u64 sock)
{
	u64 cookie = bpf_get_socket_cookie(ops);
	struct door door = {};
	int error;

	if (!is_door(sock, &door))
		return;
#pragma clang loop unroll(disable)
	for (u32 number = 0; number < MAX_DOORS_OF_PORT; number++) {
		door.number = number;
		/* BCC adds a semicolon. */
		error = sa_doors.sock_hash_update(ops, &door, BPF_NOEXIST);
		if (!error) {
			sa_door_cookies.update(&door, &cookie);
			return;
		}
	}
}

/* A listener that was there before its port was one of a door, or before its network had a number. */
static inline void note_old_door(struct sock *sk)
{
	struct door door = {};
	u64 cookie, *behind;

	if (!is_door((u64)sk, &door))
		return;
	/* One that nobody has asked for its cookie has none yet. */
	cookie = bpf_get_socket_cookie(sk);
#pragma clang loop unroll(disable)
	for (u32 number = 0; number < MAX_DOORS_OF_PORT; number++) {
		door.number = number;
		if (!sa_doors.insert(&door, sk)) {
			sa_door_cookies.update(&door, &cookie);
			return;
		}
		behind = sa_door_cookies.lookup(&door);
		if (behind && *behind == cookie)
			return;
	}
}

/* Gives a connection to the listener behind a door. Returns 0 if there is none, or it is not the proxy's. */
static inline int take_to(struct bpf_sk_lookup *ctx, struct door *door, u32 proxy)
{
	struct bpf_sock *listener = sa_doors.lookup(door);
	int taken = 0;
	u64 sock;

	if (!listener)
		return 0;
	sock = (u64)bpf_skc_to_tcp_sock(listener);
	/* By id, so that a proxy takes nothing before its getsockopt() is answered. */
	if (sock && owner_by_id(READ_U64(sock, OFFSET_sock_cgroup)) == proxy)
		taken = !bpf_sk_assign(ctx, listener, BPF_SK_LOOKUP_F_REPLACE);
	bpf_sk_release(listener);
	return taken;
}

static inline int take_to_any(struct bpf_sk_lookup *ctx, u32 network, u32 port, u32 proxy)
{
	struct door door = {.network = network, .port = port};

#pragma clang loop unroll(disable)
	for (u32 number = 0; number < MAX_DOORS_OF_PORT; number++) {
		door.number = number;
		door.family = AF_INET6;
		if (take_to(ctx, &door, proxy))
			return 1;
		door.family = AF_INET;
		if (ctx->family == AF_INET && take_to(ctx, &door, proxy))
			return 1;
	}
	return 0;
}
