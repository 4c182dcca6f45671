/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SOCKACCEL_ABI_LEAD_H
#define SOCKACCEL_ABI_LEAD_H

#include "limits.h"

enum interception_flag {
	INTERCEPTION_ON = 1,
	/* Connections go direct while the proxy does not listen. Without it they are refused. */
	INTERCEPTION_BYPASS = 2,
};

/* What a slot holds. proxy: the owner whose listener takes the connections. outbound: its port, in host order. */
struct interception {
	__u32 flags;
	__u32 proxy;
	__u32 outbound;
	__u32 pad;
};

/*
 * Whose a cgroup is: a kind in the upper 16 bits, and in the lower ones the slot of a target, or the number of a
 * proxy. 0 is nobody's.
 */
enum owner_kind {
	OWNER_NOBODY,
	OWNER_TARGET,
	OWNER_PROXY,
};

/*
 * A cgroup by the id of the one above it and by its own name. systemd makes the cgroup of a unit anew at each start;
 * this key is then the same, so that the first connection of the new one is led too.
 */
struct place {
	__u64 parent;
	char name[MAX_PLACE_NAME];
};

/* What happened to the connections of a slot. */
enum lead_counter {
	LEAD_LED,
	LEAD_EXCEPTED,
	LEAD_OWN_LISTENER,
	LEAD_PROXY_DOWN,
	LEAD_BYPASSED,
	LEAD_ORIGIN_GIVEN,
	LEAD_MPTCP,
	LEAD_NO_ROOM,
};

#define LEAD_COUNTERS 8

/* Where an application wanted to go. Addresses are as in struct flow, the port is in host order. */
struct origin {
	__u32 address[4];
	__u32 port;
	__u32 slot;
	/* The socket is the one that the proxy has accepted, and not the application's. */
	__u32 accepted;
	/* The initial sequence number of the connecting end. */
	__u32 sequence;
	__u64 cookie;
};

/* Down and back: the proxy of a slot. Drained: no led connection waits any more for its proxy. */
enum lead_happening {
	LEAD_DOWN,
	LEAD_BACK,
	LEAD_DRAINED,
};

struct lead_event {
	__u32 slot;
	__u32 happening;
};

#endif
