# SPDX-License-Identifier: GPL-2.0-or-later
"""How many of what there can be. Made by tools/generate-abi: change bpf/abi/limits.h."""

# Slots of targets. Slot 0 belongs to no target.
MAX_TARGETS = 128
# Ports, addresses and users that the policy of a target names, all together.
MAX_RULES = 64
# Levels of cgroups on which a target can be, the root's included. Those below a target are not limited.
MAX_TARGET_LEVELS = 32
# Listeners of targets.
MAX_TARGET_LISTENERS = 16384
# Listeners of the whole host that belong to no target; the least recently used are forgotten first.
MAX_LISTENERS = 16384
# Connecting ends that stay with TCP, until their accepting ends are established a moment later.
MAX_REFUSALS = 1024
# Listeners that serve a target.
MAX_SERVED = 1024
# Cgroups of targets.
MAX_CGROUPS = 1024
# Slots of interceptions. Slot 0 belongs to none.
MAX_INTERCEPTIONS = 33
# Connections that were led and that their proxy has not accepted yet.
MAX_LED_WAITING = 65536
# Ports of one target at which connections to it are led.
MAX_INBOUND = 16
# Network namespaces in which connections to targets are led.
MAX_NETWORKS = 16
# Addresses and ports of targets at which connections to them are led.
MAX_ENTRANCES = 4096
# Listeners of proxies that take such connections, and how many of them one port can have.
MAX_DOORS = 1024
MAX_DOORS_OF_PORT = 4
# Connections of proxies and targets to their own entrances.
MAX_PAST = 65536
# Bytes of a cgroup's own name by which a target or a proxy of an interception is found, with the NUL.
MAX_PLACE_NAME = 248
# Executables that are known, because a watcher has seen them or because programs.conf names their paths.
MAX_PROGRAMS = 1024
# Names of programs in programs.conf.
MAX_PROGRAM_NAMES = 256
# Ends of connections that are older than their target which one search for sockets can adopt.
MAX_FOUND = 65536
