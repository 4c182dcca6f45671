/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control of the conformance tests: what the well-known example programs do, on purpose without
 * a single check. Every loopback connection enters the map when it is established, every message is
 * handed to the peer's receive queue, and the helper's value is the verdict. Never for real use.
 */
#include <linux/types.h>
#include <uapi/linux/bpf.h>

#define FAMILY_IPV4 2
#define FAMILY_IPV6 10
#define MAPPED_PREFIX bpf_htonl(0x0000ffff)
#define IPV6_LOOPBACK_TAIL bpf_htonl(1)

/* Addresses in network order, IPv4 as ::ffff:a.b.c.d; ports in host order. */
struct address_pair {
	u32 local[4];
	u32 remote[4];
	u32 local_port;
	u32 remote_port;
};

BPF_SOCKHASH(sockets, struct address_pair, 131072);

static inline bool is_loopback(const u32 *address)
{
	if (address[0] || address[1])
		return false;
	if (address[2] == MAPPED_PREFIX)
		return (bpf_ntohl(address[3]) >> 24) == 127;
	return !address[2] && address[3] == IPV6_LOOPBACK_TAIL;
}

/*
 * The verifier wants each context load at a fixed offset. Volatile loads outside any branch are the one
 * form that no compiler merges into a load through a computed pointer.
 */
#define LOAD(context, field) (*(volatile u32 *)&(context)->field)
#define LOAD_ADDRESSES(pair, context)                                                                             \
	do {                                                                                                      \
		u32 local_ip4 = LOAD(context, local_ip4);                                                         \
		u32 remote_ip4 = LOAD(context, remote_ip4);                                                       \
		(pair).local[0] = LOAD(context, local_ip6[0]);                                                    \
		(pair).local[1] = LOAD(context, local_ip6[1]);                                                    \
		(pair).local[2] = LOAD(context, local_ip6[2]);                                                    \
		(pair).local[3] = LOAD(context, local_ip6[3]);                                                    \
		(pair).remote[0] = LOAD(context, remote_ip6[0]);                                                  \
		(pair).remote[1] = LOAD(context, remote_ip6[1]);                                                  \
		(pair).remote[2] = LOAD(context, remote_ip6[2]);                                                  \
		(pair).remote[3] = LOAD(context, remote_ip6[3]);                                                  \
		(pair).local_port = LOAD(context, local_port);                                                    \
		(pair).remote_port = bpf_ntohl(LOAD(context, remote_port));                                       \
		if (LOAD(context, family) == FAMILY_IPV4) {                                                       \
			(pair).local[0] = (pair).remote[0] = 0;                                                   \
			(pair).local[1] = (pair).remote[1] = 0;                                                   \
			(pair).local[2] = (pair).remote[2] = MAPPED_PREFIX;                                       \
			(pair).local[3] = local_ip4;                                                              \
			(pair).remote[3] = remote_ip4;                                                            \
		}                                                                                                 \
	} while (0)

int on_established(struct bpf_sock_ops *ops)
{
	struct address_pair pair = {};

	if (ops->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && ops->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 0;
	if (ops->family != FAMILY_IPV4 && ops->family != FAMILY_IPV6)
		return 0;
	LOAD_ADDRESSES(pair, ops);
	if (is_loopback(pair.local) && is_loopback(pair.remote))
		sockets.sock_hash_update(ops, &pair, BPF_ANY);
	return 0;
}

int on_message(struct sk_msg_md *message)
{
	struct address_pair own = {}, peer = {};

	LOAD_ADDRESSES(own, message);
	__builtin_memcpy(peer.local, own.remote, sizeof(peer.local));
	__builtin_memcpy(peer.remote, own.local, sizeof(peer.remote));
	peer.local_port = own.remote_port;
	peer.remote_port = own.local_port;
	return sockets.msg_redirect_hash(message, &peer, BPF_F_INGRESS);
}
