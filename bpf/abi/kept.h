/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SOCKACCEL_ABI_KEPT_H
#define SOCKACCEL_ABI_KEPT_H

/*
 * What was counted since the maps were made; it only grows. ends: those that were kept; left: those of them that
 * were LEFT when they were kept or established. Then those for which there was no place.
 */
struct kept {
	__u64 ends;
	__u64 left;
	__u64 ends_turned_away;
	__u64 listeners_turned_away;
};

#endif
