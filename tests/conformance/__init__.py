# SPDX-License-Identifier: GPL-2.0-or-later
"""Socket behaviours, measured over plain TCP, over sockaccel and over an unchecked redirect."""
