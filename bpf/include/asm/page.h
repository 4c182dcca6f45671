/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The size of the ring buffer is counted in these; the loader passes the machine's page size. */
#ifndef PAGE_SIZE
#define PAGE_SIZE 4096
#endif
