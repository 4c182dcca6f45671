# SPDX-License-Identifier: GPL-2.0-or-later
"""How many of what there can be. Made by tools/generate-abi: change bpf/abi/limits.h."""

# Slots of targets. Slot 0 belongs to no target.
MAX_TARGETS = 128
# Ports, addresses and users that the configuration names, all together.
MAX_RULES = 64
# Levels of cgroups that are searched for a target, that of the socket included.
MAX_CGROUP_DEPTH = 32
