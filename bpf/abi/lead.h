/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SOCKACCEL_ABI_LEAD_H
#define SOCKACCEL_ABI_LEAD_H

#include "limits.h"

enum interception_flag {
	INTERCEPTION_ON = 1,
	/* Connections go direct while the proxy does not listen. Without it they are refused. */
	INTERCEPTION_BYPASS = 2,
};

/*
 * What a slot holds. proxy: the owner whose listeners take the connections. outbound: its port for those that the
 * target makes, in host order; 0 if they are not led.
 */
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

/* A port of a target, in host order, at which connections to it are led. */
struct inbound_key {
	__u32 slot;
	__u32 port;
};

/* port: that of the proxy which takes them. which: a bit of its own in sa_lead_down. */
struct inbound {
	__u32 port;
	__u32 which;
};

/*
 * Where a target takes connections that are led. network: the number of the network namespace, from 1. address: as in
 * struct flow, zero for every one. port: in host order.
 */
struct entrance {
	__u32 network;
	__u32 port;
	__u32 address[4];
};

/* A listener of a proxy that takes connections to targets: the one with a number among those of a port. */
struct door {
	__u32 network;
	__u32 port;
	__u32 family;
	__u32 number;
};

/* A port of a proxy at which such connections are taken. owner: as in sa_owners. */
struct door_port {
	__u32 owner;
	__u32 port;
};

/* What a walk over the open files takes note of. */
enum lead_walk {
	LEAD_WALK_DOORS,
	LEAD_WALK_ENTRANCES,
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
	LEAD_LED_IN,
	LEAD_PROXY_DOWN_IN,
	LEAD_BYPASSED_IN,
	LEAD_UNREACHED,
};

#define LEAD_COUNTERS 12

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

/* A socket that was led, as a walk prints it: its cookie and network namespace, and where it wanted to go. */
struct led {
	__u64 cookie;
	__u64 netns;
	__u32 address[4];
	__u32 port;
	__u32 pad;
};

/*
 * Down and back: the proxy of a slot, at the port `about`. Drained: no led connection waits any more for its proxy.
 * Elsewhere: a target wants an entrance in the network namespace with the inode number `about`, in which nothing leads.
 */
enum lead_happening {
	LEAD_DOWN,
	LEAD_BACK,
	LEAD_DRAINED,
	LEAD_ELSEWHERE,
};

struct lead_event {
	__u32 slot;
	__u32 happening;
	__u32 about;
	__u32 pad;
};

#endif
