/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which target covers a cgroup, and whether it is still the one that a connection began under. */

/* The slot of the innermost target above a cgroup, 0 if none covers it. */
static inline u32 slot_of_cgroup(u64 cgroup)
{
	int level = READ_U32(cgroup, OFFSET_cgroup_level);

#pragma clang loop unroll(disable)
	for (int depth = 0; depth < MAX_CGROUP_DEPTH; depth++) {
		u64 ancestor, id;
		u32 *slot;

		if (level < 0)
			break;
		ancestor = READ_U64(cgroup, OFFSET_cgroup_ancestors + 8ULL * level);
		id = READ_U64(READ_U64(ancestor, OFFSET_cgroup_kn), OFFSET_kernfs_node_id);
		slot = sa_cgroups.lookup(&id);
		if (slot)
			return *slot;
		level--;
	}
	return 0;
}

static inline u64 cgroup_id(u64 sock)
{
	return READ_U64(READ_U64(READ_U64(sock, OFFSET_sock_cgroup), OFFSET_cgroup_kn), OFFSET_kernfs_node_id);
}

/* Whether the target that brought a connection in is still the one in its slot, and enabled. */
static inline int is_enabled(struct target *target, struct connection *connection)
{
	return target && (target->flags & TARGET_ON) && target->generation == connection->generation;
}

static inline struct target *target_of(struct connection *connection)
{
	/* On the stack: 6.1 takes no key out of the value that an iterator shows. */
	u32 slot = connection->slot;

	return sa_targets.lookup(&slot);
}
