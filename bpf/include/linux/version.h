/* SPDX-License-Identifier: GPL-2.0-or-later */
/* BCC stores this number in programs that check it; ours are none of those types. */
#define LINUX_VERSION_CODE 0
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
