/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Limits that users meet. */
#ifndef SOCKACCEL_ABI_LIMITS_H
#define SOCKACCEL_ABI_LIMITS_H

/* Slots of targets. Slot 0 belongs to no target. */
#define MAX_TARGETS 128
/* Ports, addresses and users that the policy of a target names, all together. */
#define MAX_RULES 64
/* Levels of cgroups on which a target can be, the root's included. Those below a target are not limited. */
#define MAX_TARGET_LEVELS 32
/* Listeners of targets. */
#define MAX_TARGET_LISTENERS 16384
/* Listeners of the whole host that belong to no target; the least recently used are forgotten first. */
#define MAX_LISTENERS 16384
/* Connecting ends that stay with TCP, until their accepting ends are established a moment later. */
#define MAX_REFUSALS 1024
/* Listeners that serve a target. */
#define MAX_SERVED 1024
/* Cgroups of targets. */
#define MAX_CGROUPS 1024
/* Slots of interceptions. Slot 0 belongs to none. */
#define MAX_INTERCEPTIONS 33
/* Connections that were led and that their proxy has not accepted yet. */
#define MAX_LED_WAITING 65536
/* Ports of one target at which connections to it are led. */
#define MAX_INBOUND 16
/* Network namespaces in which connections to targets are led. */
#define MAX_NETWORKS 16
/* Addresses and ports of targets at which connections to them are led. */
#define MAX_ENTRANCES 4096
/* Listeners of proxies that take such connections, and how many of them one port can have. */
#define MAX_DOORS 1024
#define MAX_DOORS_OF_PORT 4
/* Connections of proxies and targets to their own entrances. */
#define MAX_PAST 65536
/* Bytes of a cgroup's own name by which a target or a proxy of an interception is found, with the NUL. */
#define MAX_PLACE_NAME 248

/* Executables that are known, because a watcher has seen them or because programs.conf names their paths. */
#define MAX_PROGRAMS 1024

/* Names of programs in programs.conf. */
#define MAX_PROGRAM_NAMES 256
/* Ends of connections that are older than their target which one search for sockets can adopt. */
#define MAX_FOUND 65536

#endif
