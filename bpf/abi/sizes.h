/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How many entries the maps have that no option of the configuration sizes. */
#ifndef SOCKACCEL_ABI_SIZES_H
#define SOCKACCEL_ABI_SIZES_H

#define MAX_CGROUPS 1024
/* Listeners of the whole host; the least recently used are forgotten first. */
#define MAX_LISTENERS 16384
/* Listeners that serve a target. */
#define MAX_SERVED 1024
/* Connections that one search for sockets can remember as counted in MISSED. */
#define MAX_MISSED 16384
/* Ends in one part of a listing. Larger parts do not make a listing of 100,000 connections faster. */
#define MAX_LISTED 4096
/* Pages of the ring buffer; a power of two. */
#define EVENT_PAGES 64

#endif
