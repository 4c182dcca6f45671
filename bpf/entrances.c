/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Entrances: where targets take connections that are led. A target makes one when it binds to a port that is led; a
 * walk over the open files finds those that were bound before.
 */
#include "lib/sock.h"

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
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct sock *sk;
	int zero = 0;
	u32 *what;

	if (!task || !file)
		return 0;
	sk = internet_socket(file);
	if (!sk || READ_AS(u16, sk, OFFSET_sock_protocol) != IPPROTO_TCP || sock_state((u64)sk) != TCP_LISTEN)
		return 0;
	what = sa_lead_walk.lookup(&zero);
	if (what && *what == LEAD_WALK_ENTRANCES)
		note_old_entrance((u64)sk);
	else
		note_old_door(sk);
	return 0;
}

/* Returns 0 if bind() must fail: connections would come to the target past its proxy. */
static inline int on_bind(struct bpf_sock_addr *ctx, const u32 *address)
{
	u32 port = bpf_ntohs(FIELD(ctx->user_port)), slot;
	struct bpf_sock *sk = ctx->sk;
	struct interception *lead;
	u64 sock;

	if (!port || !sk || ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP)
		return 1;
	sock = (u64)bpf_skc_to_tcp_sock(sk);
	slot = sock ? slot_that_is_led_at(sock, port) : 0;

	lead = slot ? sa_leads.lookup(&slot) : NULL;
	if (!lead || make_entrance(sock, slot, address, port))
		return 1;
	count_led(slot, LEAD_UNREACHED);
	return lead->flags & INTERCEPTION_BYPASS ? 1 : 0;
}

int sockaccel_bind4(struct bpf_sock_addr *ctx)
{
	u32 address[4] = {};

	address[2] = bpf_htonl(0xffff);
	address[3] = FIELD(ctx->user_ip4);
	return on_bind(ctx, address);
}

int sockaccel_bind6(struct bpf_sock_addr *ctx)
{
	u32 address[4] = {};

	address[0] = FIELD(ctx->user_ip6[0]);
	address[1] = FIELD(ctx->user_ip6[1]);
	address[2] = FIELD(ctx->user_ip6[2]);
	address[3] = FIELD(ctx->user_ip6[3]);
	return on_bind(ctx, address);
}
