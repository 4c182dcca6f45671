/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is known of programs: which of them an accelerated socket would hurt. */

/* Declared by number, as probe_read() is. */
static long (*probe_read_string)(void *dst, __u32 size, const void *src) = (void *)BPF_FUNC_probe_read_kernel_str;

/* What keeps the connections of a program with TCP. A reader that blocks has rules of its own (judge.c). */
#define KNOWN_HURT (KNOWN_SPLICES | KNOWN_ASKS_FIONREAD)

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

/* Whether an accelerated socket would hurt a program, by all that is known. name: 16 bytes, padded by zeros. */
static inline int is_hurt(struct executable *executable, const char *name)
{
	struct program *program = sa_programs.lookup(executable);
	struct program_name key = {};

	if (program && program->knowledge & KNOWN_HURT)
		return 1;
	__builtin_memcpy(key.name, name, sizeof(key.name));
	return sa_names.lookup(&key) ? 1 : 0;
}

/* The same for the program in whose context the kernel calls this one. */
static inline int current_is_hurt(void)
{
	u64 task = bpf_get_current_task();
	struct executable executable;
	char name[16] = {};

	read_executable(file_of_task(task), &executable);
	read_name(task, name);
	return is_hurt(&executable, name);
}
