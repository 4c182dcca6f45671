/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tells an audit of the open sockets of a cgroup and of the other ends of their connections. It only reads: nothing is
 * kept about a socket, and none joins.
 */
#include "lib/options.h"

/* The id of the cgroup that is so many levels below the root, at or above this one; 0 if there is none. */
static inline u64 id_on_level(u64 cgroup, u32 level)
{
	if (level > READ_U32(cgroup, OFFSET_cgroup_level))
		return 0;
	return READ_U64(READ_U64(READ_U64(cgroup, OFFSET_cgroup_ancestors + 8ULL * level), OFFSET_cgroup_kn),
			OFFSET_kernfs_node_id);
}

/*
 * Whether the audited cgroup, or one below it, has the socket. What systemd accepts or opens for a service is of
 * systemd's cgroup, and the task that has the file tells whose it is.
 */
static inline int is_audited(u64 sock, u64 task, u64 id)
{
	u64 of_sock = READ_U64(sock, OFFSET_sock_cgroup);
	u64 of_task = READ_U64(READ_U64(task, OFFSET_task_cgroups), OFFSET_css_set_dfl_cgrp);

#pragma clang loop unroll(disable)
	for (u32 level = 0; level < MAX_TARGET_LEVELS; level++) {
		if (id_on_level(of_sock, level) == id || id_on_level(of_task, level) == id)
			return 1;
	}
	return 0;
}

static inline u32 reason_in_audit(const struct open_socket *seen, u64 sock, u64 task, struct end *end)
{
	u32 reason = reason_against_end(sock);
	struct executable executable;

	if (sock_is_mptcp(sock))
		return MPTCP;
	if (reason)
		return reason;
	if (namespace_has_policies(PROBED, READ_U64(sock, OFFSET_sock_net), is_v4(seen->flow.remote)))
		return IPSEC_END;
	if (sock_psock(sock) && !(end && end->in_map))
		return FOREIGN_SOCKMAP;
	read_executable(file_of_task(task), &executable);
	return is_hurt(&executable, seen->program) ? KNOWN_PROGRAM : NO_REASON;
}

static inline void look_at_end(struct sock *sk, u64 sock, u64 task, u64 file, struct open_socket *seen)
{
	struct end *end = sa_ends.sk_storage_get(sk, 0, 0);

	/* Asked by helper: the kernel gives a socket its cookie when somebody asks for it first. */
	seen->cookie = bpf_get_socket_cookie(sk);
	seen->sent = READ_U64(sock, OFFSET_tcp_sock_bytes_acked);
	seen->received = READ_U64(sock, OFFSET_tcp_sock_bytes_received);
	seen->sent_segments = READ_U32(sock, OFFSET_tcp_sock_data_segs_out);
	seen->received_segments = READ_U32(sock, OFFSET_tcp_sock_data_segs_in);
	seen->reason = reason_in_audit(seen, sock, task, end);
	if (is_local(&seen->flow))
		seen->flags |= OPEN_LOCAL;
	if (file_blocks(file))
		seen->flags |= OPEN_BLOCKS;
	seen->user = READ_U32(sock, OFFSET_sock_uid);
	if (READ_U32(sock, OFFSET_tcp_sock_urg_seq))
		seen->flags |= OPEN_URGENT;
	if (end && end->in_map) {
		seen->flags |= OPEN_JOINED;
		seen->sent += end->redirected_bytes;
		seen->sent_segments += end->redirected_messages;
	}
}

/* The key of an end that may be the connecting one: nobody has noted whether it is, so both are looked for. */
static inline void as_connecting(const struct pair_key *accepting, struct pair_key *connecting)
{
	connecting->sent = accepting->sent + 1;
	connecting->received = accepting->received;
}

/* Notes the other end of a connection for the second walk. Returns 0 if there is no place for it. */
static inline int note_peer(const struct pair_key *own_key)
{
	struct pair_key other_key = {}, peer_key = {};
	u32 one = 1;

	swap_key(own_key, &peer_key);
	if (sa_audited.update(&peer_key, &one))
		return 0;
	as_connecting(own_key, &other_key);
	swap_key(&other_key, &peer_key);
	return !sa_audited.update(&peer_key, &one);
}

static inline int is_noted(const struct pair_key *own_key)
{
	struct pair_key key = *own_key;

	if (sa_audited.lookup(&key))
		return 1;
	as_connecting(own_key, &key);
	return sa_audited.lookup(&key) ? 1 : 0;
}

/* One open socket, by the file of a task. No more connections are looked at than sa_audited has places for. */
static inline void tell_audit(struct seq_file *seq, u64 task, u64 file, struct sock *sk, const struct audit *audit)
{
	u64 sock = (u64)sk;
	struct open_socket seen = {.pid = READ_U32(task, OFFSET_task_tgid)};

	read_flow(sock, &seen.flow);
	read_name(task, seen.program);
	if (sock_state(sock) == TCP_LISTEN) {
		if (audit->look != LOOK_ENDS)
			return;
		seen.flags = OPEN_LISTENS;
	} else if (sock_state(sock) != TCP_ESTABLISHED) {
		return;
	} else {
		read_key(sock, 0, &seen.key);
		if (audit->look == LOOK_PEERS) {
			if (!is_noted(&seen.key))
				return;
		} else if (!is_audited(sock, task, audit->cgroup) || !note_peer(&seen.key)) {
			return;
		}
		look_at_end(sk, sock, task, file, &seen);
	}
	bpf_seq_write(seq, &seen, sizeof(seen));
}
