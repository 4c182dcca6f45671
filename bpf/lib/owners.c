/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whose cgroups are, and what the programs that lead connections tell the daemon. */
#include "lib/sock.h"

/* By number, for the reason that lib/kernel.h gives for probe_read. */
static long (*probe_read_str)(void *dst, __u32 size, const void *src) = (void *)BPF_FUNC_probe_read_kernel_str;

/* A read of the context must have its offset in the instruction: the compiler must not compute an address first. */
#define FIELD(field)                                                                                              \
	({                                                                                                        \
		u32 value_ = (field);                                                                             \
		asm volatile("" : "+r"(value_));                                                                  \
		value_;                                                                                           \
	})

static inline void count_led(u32 slot, u32 counter)
{
	struct lead_counts *counts = sa_lead_counts.lookup(&slot);

	if (counts && counter < LEAD_COUNTERS)
		__sync_fetch_and_add(&counts->value[counter], 1);
}

static inline void tell(u32 slot, u32 happening, u32 about)
{
	struct lead_event event = {.slot = slot, .happening = happening, .about = about};

	sa_lead_events.ringbuf_output(&event, sizeof(event), 0);
}

/*
 * Remembers whether the proxy was there, and tells the daemon when that has changed. which: a bit for each port of
 * the proxy.
 */
static inline void note_proxy(u32 slot, u32 which, u32 port, u32 down)
{
	u32 *before = sa_lead_down.lookup(&slot), now;

	if (!before || !(*before & which) == !down)
		return;
	now = down ? *before | which : *before & ~which;
	if (!*before || !now)
		tell(slot, down ? LEAD_DOWN : LEAD_BACK, port);
	*before = now;
}

static inline u64 id_of_cgroup(u64 cgroup)
{
	return READ_U64(READ_U64(cgroup, OFFSET_cgroup_kn), OFFSET_kernfs_node_id);
}

static inline int lowest_level(u64 cgroup)
{
	int level = READ_U32(cgroup, OFFSET_cgroup_level);

	return level > MAX_TARGET_LEVELS - 1 ? MAX_TARGET_LEVELS - 1 : level;
}

/* The owner of the innermost cgroup that has a place, at or above this one. 0 for nobody. */
static inline u32 owner_by_name(u64 cgroup)
{
	int level = lowest_level(cgroup);
	u64 child = READ_U64(cgroup, OFFSET_cgroup_ancestors + 8ULL * level);

#pragma clang loop unroll(disable)
	for (int depth = 0; depth < MAX_TARGET_LEVELS; depth++) {
		u64 above, id;

		if (level < 1)
			break;
		level--;
		above = READ_U64(cgroup, OFFSET_cgroup_ancestors + 8ULL * level);
		id = id_of_cgroup(above);
		if (sa_parents.lookup(&id)) {
			struct place place = {.parent = id};
			u32 *owner;

			probe_read_str(
				place.name, sizeof(place.name),
				(void *)READ_U64(READ_U64(child, OFFSET_cgroup_kn), OFFSET_kernfs_node_name));
			owner = sa_places.lookup(&place);
			if (owner)
				return *owner;
		}
		child = above;
	}
	return OWNER_NOBODY;
}

/* The owner of the innermost cgroup that is known by id. */
static inline u32 owner_by_id(u64 cgroup)
{
	int level = lowest_level(cgroup);

#pragma clang loop unroll(disable)
	for (int depth = 0; depth < MAX_TARGET_LEVELS; depth++) {
		u64 id;
		u32 *owner;

		if (level < 0)
			break;
		id = id_of_cgroup(READ_U64(cgroup, OFFSET_cgroup_ancestors + 8ULL * level));
		owner = sa_owners.lookup(&id);
		if (owner)
			return *owner;
		level--;
	}
	return OWNER_NOBODY;
}

static inline int is_mapped(const u32 *address)
{
	return !address[0] && !address[1] && address[2] == bpf_htonl(0xffff);
}

static inline int is_loopback(const u32 *address)
{
	if (is_mapped(address))
		return bpf_ntohl(address[3]) >> 24 == 127;
	return !address[0] && !address[1] && !address[2] && address[3] == bpf_htonl(1);
}

/* Multicast and broadcast: no TCP connection can be made, and the kernel says so. */
static inline int is_nobodys(const u32 *address)
{
	if (is_mapped(address))
		return bpf_ntohl(address[3]) >> 28 == 14 || address[3] == 0xffffffff;
	return bpf_ntohl(address[0]) >> 24 == 0xff;
}
