/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is known of programs: which of them an accelerated socket would hurt. */

/* Declared by number, as probe_read() is. */
static long (*probe_read_string)(void *dst, __u32 size, const void *src) = (void *)BPF_FUNC_probe_read_kernel_str;

/* What keeps the connections of a program with TCP. A reader that blocks has rules of its own (judge.c). */
#define KNOWN_HURT (KNOWN_SPLICES | KNOWN_ASKS_FIONREAD | KNOWN_DISCARDS | KNOWN_WAITS_FOR_ALL)

/* The file that a task runs, 0 for a task of the kernel itself. */
static inline u64 file_of_task(u64 task)
{
	u64 mm = READ_U64(task, OFFSET_task_mm);

	return mm ? READ_U64(mm, OFFSET_mm_exe_file) : 0;
}

static inline void read_executable(u64 file, struct executable *found)
{
	u64 inode = file ? READ_U64(file, OFFSET_file_inode) : 0;

	found->inode = inode ? READ_U64(inode, OFFSET_inode_ino) : 0;
	found->device = inode ? READ_U32(READ_U64(inode, OFFSET_inode_sb), OFFSET_super_block_dev) : 0;
	found->pad = 0;
}

/* The name of a task's process: a thread may have another one. name: 16 bytes, all zero. */
static inline void read_name(u64 task, char *name)
{
	u64 leader = READ_U64(task, OFFSET_task_group_leader);

	/* As a string: on older kernels what follows the end of a name may be a part of an earlier one. */
	probe_read_string(name, 16, (void *)(leader + OFFSET_task_comm));
}

/* All that is known of a program, enum knowledge_flag. name: 16 bytes, padded by zeros. */
static inline u32 knowledge_of(struct executable *executable, const char *name)
{
	struct program *program = sa_programs.lookup(executable);
	struct program_name key = {};
	u32 knowledge = program ? program->knowledge : 0, *listed;

	__builtin_memcpy(key.name, name, sizeof(key.name));
	listed = sa_names.lookup(&key);
	return listed ? knowledge | *listed : knowledge;
}

/* Whether an accelerated socket would hurt a program. */
static inline int is_hurt(struct executable *executable, const char *name)
{
	return knowledge_of(executable, name) & KNOWN_HURT ? 1 : 0;
}

/* All that is known of the program in whose context the kernel calls this one. */
static inline u32 knowledge_of_current(void)
{
	u64 task = bpf_get_current_task();
	struct executable executable;
	char name[16] = {};

	read_executable(file_of_task(task), &executable);
	read_name(task, name);
	return knowledge_of(&executable, name);
}

/*
 * Whether an end is known to read without waiting although its file has no O_NONBLOCK. end: a number, believed if it
 * has the cookie.
 */
static inline int never_waits(u64 end, u64 cookie)
{
	return end && READ_U64(end, __builtin_offsetof(struct end, cookie)) == cookie &&
	       READ_U8(end, __builtin_offsetof(struct end, reads)) == DONTWAIT_READS;
}
