# SPDX-License-Identifier: GPL-2.0-or-later
LITTLE_ENDIAN: int
BIG_ENDIAN: int
