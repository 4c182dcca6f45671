/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which target covers a cgroup, and whether an end's target is still the one that covered it. */

/* The slot of the innermost target at or above a cgroup, 0 if there is none. */
static inline u32 slot_of_cgroup(u64 cgroup)
{
	int level = READ_U32(cgroup, OFFSET_cgroup_level);

	/* Cgroups may be nested deeper, but no target is (Kernel.cover() in sockaccel/kernel/live.py). */
	if (level > MAX_TARGET_LEVELS - 1)
		level = MAX_TARGET_LEVELS - 1;
#pragma clang loop unroll(disable)
	for (int depth = 0; depth < MAX_TARGET_LEVELS; depth++) {
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

/* Whether a cgroup is that with an id, or below it. */
static inline int is_below(u64 cgroup, u64 id)
{
	int level = READ_U32(cgroup, OFFSET_cgroup_level);

	if (level > MAX_TARGET_LEVELS - 1)
		level = MAX_TARGET_LEVELS - 1;
#pragma clang loop unroll(disable)
	for (int depth = 0; depth < MAX_TARGET_LEVELS; depth++) {
		u64 ancestor;

		/* Keeps the counter: the compiler would count by level alone, of which the verifier knows no bound. */
		asm volatile("" : "+r"(depth));
		if (level < 0)
			break;
		ancestor = READ_U64(cgroup, OFFSET_cgroup_ancestors + 8ULL * level);
		if (READ_U64(READ_U64(ancestor, OFFSET_cgroup_kn), OFFSET_kernfs_node_id) == id)
			return 1;
		level--;
	}
	return 0;
}

static inline u64 cgroup_id(u64 sock)
{
	return READ_U64(READ_U64(READ_U64(sock, OFFSET_sock_cgroup), OFFSET_cgroup_kn), OFFSET_kernfs_node_id);
}

/* Whether the slot still has the target that covered the end, and the target is on. target may be NULL. */
static inline int is_enabled(struct target *target, struct end *end)
{
	return target && (target->flags & TARGET_ON) && target->generation == end->generation;
}

/* Whether the target in a slot lets ends in different network namespaces meet. */
static inline int allows_other_namespaces(u32 slot)
{
	struct target *target = sa_targets.lookup(&slot);

	return target && target->flags & TARGET_OTHER_NAMESPACES;
}

/* What the end's slot holds now, by any owner. */
static inline struct target *target_of(struct end *end)
{
	/* Copied to the stack: the verifier of 6.1 takes no key from the value that an iterator shows. */
	u32 slot = end->slot;

	return sa_targets.lookup(&slot);
}
