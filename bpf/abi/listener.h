/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SOCKACCEL_ABI_LISTENER_H
#define SOCKACCEL_ABI_LISTENER_H

#include "program.h"

/*
 * A listening socket. It may be gone: it is believed only while what is read from it still listens on the same
 * port. search: the number of the search for sockets during or after which it was seen last.
 */
struct listener {
	__u64 sock;
	__u32 pid;
	__u32 mptcp;
	__u32 search;
	__u32 pad;
	char comm[16];
	struct executable executable;
};

#endif
