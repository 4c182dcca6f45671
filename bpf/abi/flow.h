/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SOCKACCEL_ABI_FLOW_H
#define SOCKACCEL_ABI_FLOW_H

/*
 * A connection as one of its ends sees it. Addresses are in network order. IPv4 is written as ::ffff:a.b.c.d
 * whatever the socket's family, so that an IPv4 client of a [::] listener finds its peer. Ports are in host order.
 */
struct flow {
	__u64 netns;
	__u32 local[4];
	__u32 remote[4];
	__u16 local_port;
	__u16 remote_port;
	__u32 pad;
};

/*
 * What an established end knows its connection by: the numbers of the first byte that it sends and of the first one
 * that it receives. The peer has the same two the other way round, whatever address translation and however many
 * network namespaces lie between.
 */
struct pair_key {
	__u32 sent;
	__u32 received;
};

/* Where a listener listens. Address and port are as in struct flow. */
struct listener_key {
	__u64 netns;
	__u32 address[4];
	__u32 port;
	__u32 pad;
};

#endif
