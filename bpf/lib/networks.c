/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Network namespaces in which connections to targets are led, and the entrances of targets there. */
#include "lib/sock.h"

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
