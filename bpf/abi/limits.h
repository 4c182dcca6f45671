/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Limits that users meet. */
#ifndef SOCKACCEL_ABI_LIMITS_H
#define SOCKACCEL_ABI_LIMITS_H

/* Slots of targets. Slot 0 belongs to no target. */
#define MAX_TARGETS 128
/* Ports, addresses and users that the configuration names, all together. */
#define MAX_RULES 64
/* Levels of cgroups that are searched for a target, that of the socket included. */
#define MAX_CGROUP_DEPTH 32

#endif
