/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How many entries the maps have that no option of the configuration sizes. */
#ifndef SOCKACCEL_ABI_SIZES_H
#define SOCKACCEL_ABI_SIZES_H

/* Ends that an audit can remember. */
#define MAX_MISSED 16384
/* Ends in one part of a listing. Larger parts do not make a listing of 100,000 connections faster. */
#define MAX_LISTED 4096
/*
 * Ends after which a walk interrupts itself, so that others can have the CPU. The kernel then looks for its place
 * again from the start of the bucket: smaller parts make a walk over 100,000 ends longer.
 */
#define MAX_WALKED 4096
/* Pages of the ring buffer; a power of two. */
#define EVENT_PAGES 64

#endif
