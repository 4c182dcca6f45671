/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The watchers: they see what a program does with a member's socket. The kernel calls them when one of its own
 * functions is called or returns (WATCHERS in sockaccel/kernel/watched.py). ctx has the function's arguments and,
 * for one that returns, its return value behind them (ARGUMENTS_function).
 *
 * None may be relied on to run: the kernel leaves a watcher out while another task of the CPU is interrupted inside
 * the same one. So what a watcher saw may allow something, and what it did not see may not.
 */

#include "lib/sock.h"

/* include/linux/socket.h */
#define MSG_OOB 1
#define MSG_PEEK 2
#define MSG_TRUNC 0x20
#define MSG_DONTWAIT 0x40
#define MSG_WAITALL 0x100
#define MSG_ERRQUEUE 0x2000
#define MSG_MORE 0x8000
#define MSG_ZEROCOPY 0x4000000

/* include/uapi/asm-generic/ioctls.h; also called FIONREAD. */
#define SIOCINQ 0x541B

/* Tells the daemon that there is something new in sa_programs. It looks there at its next start too. */
static inline void tell_program(void)
{
	struct event *event = sa_events.ringbuf_reserve(sizeof(*event));

	if (!event)
		return;
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = EVENT_PROGRAM;
	sa_events.ringbuf_submit(event, 0);
}

/*
 * Reads the names on the way from a file to the root of its mount namespace, the last one first. The daemon may look
 * at no process of others, so it cannot ask /proc. Where one file system is mounted on another, a part stays empty.
 * So a part's place does not depend on what was read, which the verifier could not follow. path: PATH_BYTES.
 */
static inline void read_path(u64 file, char *path)
{
	u64 dentry = READ_U64(file, OFFSET_file_dentry),
	    mount = READ_U64(file, OFFSET_file_mnt) - OFFSET_mount_mnt;

#pragma clang loop unroll(disable)
	for (u32 part = 0; part < PATH_PARTS; part++) {
		u64 parent = READ_U64(dentry, OFFSET_dentry_parent), outer = READ_U64(mount, OFFSET_mount_parent);
		u64 root = READ_U64(mount, OFFSET_mount_mnt + OFFSET_vfsmount_root), name = 0;

		if (dentry == root || dentry == parent) {
			if (outer == mount)
				break;
			parent = READ_U64(mount, OFFSET_mount_mountpoint);
			mount = outer;
		} else {
			name = READ_U64(dentry, OFFSET_dentry_name);
		}
		/* Of no name it makes an empty one. */
		probe_read_string(path + part * PATH_PART, PATH_PART, (void *)name);
		dentry = parent;
	}
}

/* What is known of an executable, from now on; NULL if there is no place. */
static inline struct program *find_or_make_program(struct executable *executable, u32 slot)
{
	struct program *program = sa_programs.lookup(executable), *unknown;
	int zero = 0;

	if (program)
		return program;
	unknown = sa_unknown_program.lookup(&zero);
	if (!unknown)
		return NULL;
	if (sa_programs.insert(executable, unknown) == -E2BIG)
		count(slot, PROGRAMS_TURNED_AWAY, 1);
	return sa_programs.lookup(executable);
}

/*
 * Remembers for the next connections what the program of this call does. Two that write at once may lose what one of
 * them has seen, which is seen again.
 */
static inline void remember(u32 slot, u32 knowledge)
{
	u64 file = file_of_task(bpf_get_current_task());
	struct executable executable;
	struct settings *settings;
	struct program *program;
	int zero = 0;

	settings = sa_settings.lookup(&zero);
	if (!settings || !settings->remembers)
		return;
	read_executable(file, &executable);
	if (!executable.inode)
		return;
	program = find_or_make_program(&executable, slot);
	if (!program || program->knowledge & knowledge)
		return;
	if (!program->path[0])
		read_path(file, program->path);
	if (!program->since_ns)
		program->since_ns = bpf_ktime_get_ns();
	program->pid = bpf_get_current_pid_tgid() >> 32;
	program->knowledge |= knowledge;
	tell_program();
}

/*
 * Notes why an end must stay with TCP, or leave the map. Nothing is evidence for it any more. knowledge: what to
 * remember of its program, 0 for nothing.
 */
static inline void note_seen(struct end *end, u32 reason, u32 knowledge)
{
	if (end->seen)
		return;
	end->seen = reason;
	end->received = 0;
	if (end->in_map)
		want_sweep(SWEEP_NOW);
	if (knowledge)
		remember(end->slot, knowledge);
}

/* Tells an audit what this process does with a socket of TCP: it looks at connections that no target covers. */
static inline void note_call(u32 knowledge)
{
	u32 process = bpf_get_current_pid_tgid() >> 32, *known, *auditing;
	int zero = 0;

	auditing = sa_auditing.lookup(&zero);
	if (!auditing || !*auditing)
		return;
	known = sa_calls.lookup(&process);
	if (known)
		*known |= knowledge;
	else
		sa_calls.update(&process, &knowledge);
}

/* Whether a call reads bytes and waits for them. */
static inline int may_wait(u32 flags)
{
	return !(flags & (MSG_DONTWAIT | MSG_ERRQUEUE));
}

#ifdef FUNCTION_tcp_bpf_recvmsg
/* recv() of a member has returned: notes up to where it has read what TCP carried. */
int sockaccel_recv(u64 *ctx)
{
	s32 returned = ctx[ARGUMENTS_tcp_bpf_recvmsg];
	u32 flags = ctx[3];
	struct end *end;

	if (returned <= 0 || flags & (MSG_PEEK | MSG_ERRQUEUE))
		return 0;
	end = sa_ends.sk_storage_get((void *)ctx[0], 0, 0);
	if (end && end->in_map && !end->seen)
		end->received = RECEIVED | READ_U32(ctx[0], OFFSET_tcp_sock_copied_seq);
	return 0;
}

/* recv() of a member is called, with flags that a redirect could not serve or in blocking mode. */
int sockaccel_read(u64 *ctx)
{
	u32 flags = ctx[3];
	struct end *end;

	if (!(flags & (MSG_OOB | MSG_TRUNC)) && !may_wait(flags))
		return 0;
	end = sa_ends.sk_storage_get((void *)ctx[0], 0, 0);
	if (!end || !end->in_map)
		return 0;
	/* Of redirected bytes it would take the next as an urgent one. A program may do it once in its life. */
	if (flags & MSG_OOB)
		note_seen(end, READ_FLAGS_END, 0);
	else if (flags & MSG_TRUNC)
		note_seen(end, READ_FLAGS_END, KNOWN_DISCARDS);
	else if (flags & MSG_WAITALL)
		note_seen(end, READ_FLAGS_END, KNOWN_WAITS_FOR_ALL);
	/* It is a member because it has never waited so far. */
	if (may_wait(flags) && end->reads == DONTWAIT_READS) {
		end->reads = READS_BLOCKED;
		want_sweep(SWEEP_NOW);
		remember(end->slot, KNOWN_BLOCKS);
	}
	return 0;
}
#endif

#ifdef FUNCTION_tcp_recvmsg
/*
 * recv() of any TCP socket is called. Attached while a candidate waits for nothing but O_NONBLOCK: one that always
 * uses MSG_DONTWAIT can do without.
 */
int sockaccel_wait(u64 *ctx)
{
	struct end *end = sa_ends.sk_storage_get((void *)ctx[0], 0, 0);
	u32 flags = ctx[3];

	if (!end || end->state != CANDIDATE || end->reads == READS_BLOCKED || flags & MSG_ERRQUEUE)
		return 0;
	if (may_wait(flags)) {
		end->reads = READS_BLOCKED;
		remember(end->slot, KNOWN_BLOCKS);
	} else if (end->reads < DONTWAIT_READS) {
		end->reads++;
	}
	return 0;
}
#endif

#ifdef FUNCTION_tcp_bpf_sendmsg
/*
 * send() of a member is called. If its flags are odd its messages go by TCP, up to the task's next call without. The
 * verdict, which the kernel asks later in the same call, does not see the flags.
 */
int sockaccel_send(u64 *ctx)
{
	u32 odd = READ_U32(ctx[1], OFFSET_msghdr_flags) & (MSG_OOB | MSG_MORE | MSG_ZEROCOPY);
	struct end *end = sa_ends.sk_storage_get((void *)ctx[0], 0, 0);
	u64 task = bpf_get_current_pid_tgid();

	if (!end || !end->in_map)
		return 0;
	if (odd)
		end->odd_sender = end->odd_sender && end->odd_sender != task ? EVERYBODY : task;
	else if (end->odd_sender == task)
		end->odd_sender = 0;
	return 0;
}
#endif

/* ioctl(FIONREAD) is called for a socket of TCP. Attached where the kernel answers wrongly. */
static inline int on_ioctl(u64 *ctx)
{
	struct end *end;

	if ((u32)ctx[1] != SIOCINQ)
		return 0;
	note_call(KNOWN_ASKS_FIONREAD);
	end = sa_ends.sk_storage_get((void *)ctx[0], 0, 0);
	if (end)
		note_seen(end, FIONREAD_END, KNOWN_ASKS_FIONREAD);
	return 0;
}

#ifdef FUNCTION_tcp_ioctl
int sockaccel_ask(u64 *ctx)
{
	return on_ioctl(ctx);
}
#endif

#ifdef FUNCTION_tcp_bpf_ioctl
/* Newer kernels have this one for members. */
int sockaccel_ask_member(u64 *ctx)
{
	return on_ioctl(ctx);
}
#endif

#ifdef FUNCTION_tcp_splice_read
/*
 * splice() or sendfile() out of a socket is called, which finds what TCP carried and not what was redirected. The end
 * leaves the map. What it holds of redirected bytes may be lost, so nothing may come after them (would_overtake()),
 * and the connection is aborted where the kernel can (abort.c).
 */
int sockaccel_splice(u64 *ctx)
{
	/* Read directly: the verifier takes the result of a probe for a number, not for a socket. */
	struct sock *sk = *(struct sock **)((void *)ctx[0] + OFFSET_socket_sk);
	struct end *end;

	if (!sk)
		return 0;
	note_call(KNOWN_SPLICES);
	end = sa_ends.sk_storage_get(sk, 0, 0);
	if (!end)
		return 0;
	end->spliced = 1;
	note_seen(end, SPLICE_END, KNOWN_SPLICES);
	if (!end->in_map || end->spliced_unread || !sock_holds_redirected((u64)sk))
		return 0;
	end->spliced_unread = 1;
	count(end->slot, SPLICE_UNREAD, 1);
	report(end, (u64)sk, EVENT_BROKEN, SPLICE_UNREAD);
	/* Also if it was to leave before: what it has missed is told by the sweep. */
	want_sweep(SWEEP_NOW);
	return 0;
}
#endif
