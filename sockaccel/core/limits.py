# SPDX-License-Identifier: GPL-2.0-or-later
"""How many of what there can be."""

# Slots of targets; slot 0 belongs to no target.
MAX_TARGETS = 128
# Ports, addresses and users that the configuration names, all together.
MAX_RULES = 64
