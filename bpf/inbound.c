/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Leads connections that are made to targets (docs/sidecar.md). A target that binds to one of the ports gets an
 * entrance. When a connection comes for one, the kernel asks a program in the network namespace which listener shall
 * have it (sk_lookup): the proxy's, which is a door. Addresses stay as they are, so SO_ORIGINAL_DST is the socket's own.
 */
#include "lib/sock.h"

#define SOCK_STREAM 1
/* The bit in sa_lead_down of the proxy's port for what a target connects to. */
#define OUTBOUND 1
/* Connections may be between the question whether there is room for them and their note, on every CPU. */
#define PAST_RESERVE 1024

struct bpf_iter_meta;
struct sock;

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file __attribute__((aligned(8)));
};

/* The inode number of a socket's network namespace, by which the daemon knows it. */
static inline u32 inode_of_network(u64 sock)
{
	return READ_U32(READ_U64(sock, OFFSET_sock_net), OFFSET_net_inode);
}

/* The number of a socket's network namespace, 0 if nothing leads there. */
static inline u32 network_of(u64 sock)
{
	u32 inode = inode_of_network(sock), *network;

	network = sa_networks.lookup(&inode);
	return network ? *network : 0;
}

/* The slot of the target that takes connections to an address and port, 0 for none. */
static inline u32 slot_of_entrance(u32 network, const u32 *address, u32 port)
{
	struct entrance key = {.network = network, .port = port};
	u32 *slot;

	__builtin_memcpy(key.address, address, sizeof(key.address));
	slot = sa_entrances.lookup(&key);
	if (slot)
		return *slot;
	__builtin_memset(key.address, 0, sizeof(key.address));
	slot = sa_entrances.lookup(&key);
	return slot ? *slot : 0;
}

/*
 * The slot of the target at whose entrance a connection arrives that passes it: one of the target itself, or of its
 * proxy. 0 for any other connection.
 */
static inline u32 slot_to_pass(u64 sock, const u32 *address, u32 port)
{
	u32 network = network_of(sock), slot, owner;
	struct interception *lead;

	slot = network ? slot_of_entrance(network, address, port) : 0;
	lead = slot ? sa_leads.lookup(&slot) : NULL;
	if (!lead)
		return 0;
	owner = owner_by_name(READ_U64(sock, OFFSET_sock_cgroup));
	return owner == lead->proxy || owner == (OWNER_TARGET << 16 | slot) ? slot : 0;
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
	slot = slot_to_pass(sock, flow.local, flow.local_port);
	if (!slot)
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

/* Whether a listener is one of a proxy, at a port that takes connections to targets. Fills in door but for number. */
static inline int is_door(u64 sock, struct door *door)
{
	struct door_port port = {.port = READ_AS(u16, sock, OFFSET_sock_num)};

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

/*
 * Makes an entrance for a target. Returns 0 if nothing leads in its network namespace, of which the daemon is told,
 * or if there is no room.
 */
static inline int make_entrance(u64 sock, u32 slot, const u32 *address, u32 port)
{
	struct entrance entrance = {.network = network_of(sock), .port = port};

	if (!entrance.network) {
		tell(slot, LEAD_ELSEWHERE, inode_of_network(sock));
		return 0;
	}
	/* Every IPv4 address is as good as every address. */
	if (!is_mapped(address) || address[3])
		__builtin_memcpy(entrance.address, address, sizeof(entrance.address));
	if (!sa_entrances.update(&entrance, &slot))
		return 1;
	count_led(slot, LEAD_NO_ROOM);
	return 0;
}

/* The slot of the target that a socket belongs to, if connections to it are led at this port; otherwise 0. */
static inline u32 slot_that_is_led_at(u64 sock, u32 port)
{
	u32 owner = owner_by_name(READ_U64(sock, OFFSET_sock_cgroup));
	struct inbound_key key = {.slot = owner & 0xffff, .port = port};

	return owner >> 16 == OWNER_TARGET && sa_inbound.lookup(&key) ? key.slot : 0;
}

static inline void note_old_entrance(u64 sock)
{
	u32 address[4] = {}, port = READ_AS(u16, sock, OFFSET_sock_num), slot;

	slot = slot_that_is_led_at(sock, port);
	if (!slot)
		return;
	read_address(sock, OFFSET_sock_rcv_saddr, OFFSET_sock_v6_rcv_saddr, address);
	make_entrance(sock, slot, address, port);
}

/* Once for the doors, then for the entrances, so that no connection meets an entrance without a door. */
int bpf_iter__task_file(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct socket *socket;
	int zero = 0;
	struct sock *sk;
	u32 *what;
	u16 family;

	if (!ctx->task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	/* Read directly: the verifier takes the result of a probe for a number, not for a socket. */
	sk = *(struct sock **)((void *)socket + OFFSET_socket_sk);
	if (!sk)
		return 0;
	family = READ_AS(u16, sk, OFFSET_sock_family);
	if ((family != AF_INET && family != AF_INET6) || READ_AS(u16, sk, OFFSET_sock_protocol) != IPPROTO_TCP ||
	    sock_state((u64)sk) != TCP_LISTEN)
		return 0;
	what = sa_lead_walk.lookup(&zero);
	if (what && *what == LEAD_WALK_ENTRANCES)
		note_old_entrance((u64)sk);
	else
		note_old_door(sk);
	return 0;
}

/* Returns 0 if bind() must fail: connections would come to the target past its proxy. */
static inline int bind_to(u64 sock, const u32 *address, u32 port)
{
	struct interception *lead;
	u32 slot = port ? slot_that_is_led_at(sock, port) : 0;

	lead = slot ? sa_leads.lookup(&slot) : NULL;
	if (!lead || make_entrance(sock, slot, address, port))
		return 1;
	count_led(slot, LEAD_UNREACHED);
	return lead->flags & INTERCEPTION_BYPASS ? 1 : 0;
}

int sockaccel_bind4(struct bpf_sock_addr *ctx)
{
	u32 address[4] = {}, port = bpf_ntohs(FIELD(ctx->user_port));
	struct bpf_sock *sk = ctx->sk;
	u64 sock;

	if (!sk || ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP)
		return 1;
	sock = (u64)bpf_skc_to_tcp_sock(sk);
	address[2] = bpf_htonl(0xffff);
	address[3] = ctx->user_ip4;
	return sock ? bind_to(sock, address, port) : 1;
}

int sockaccel_bind6(struct bpf_sock_addr *ctx)
{
	u32 address[4] = {}, port = bpf_ntohs(FIELD(ctx->user_port));
	struct bpf_sock *sk = ctx->sk;
	u64 sock;

	if (!sk || ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP)
		return 1;
	sock = (u64)bpf_skc_to_tcp_sock(sk);
	address[0] = FIELD(ctx->user_ip6[0]);
	address[1] = FIELD(ctx->user_ip6[1]);
	address[2] = FIELD(ctx->user_ip6[2]);
	address[3] = FIELD(ctx->user_ip6[3]);
	return sock ? bind_to(sock, address, port) : 1;
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
