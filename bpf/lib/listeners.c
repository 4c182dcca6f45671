/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The listening sockets of the whole host. */

static inline int still_listens(struct listener *listener, struct listener_key *key)
{
	return sock_state(listener->sock) == TCP_LISTEN &&
	       READ_AS(u16, listener->sock, OFFSET_sock_num) == key->port &&
	       sock_netns(listener->sock) == key->netns;
}

/*
 * The listener that answers connections to an address and port: one on that address, on 0.0.0.0, or on [::].
 * Returns 1 and sets key and found, or returns 0. found is a copy, so that the verifier need not tell the two maps
 * apart in all that follows.
 */
static inline int listener_for(u64 netns, const u32 *address, u32 port, struct listener_key *key,
			       struct listener *found)
{
	struct listener *listener;

	key->netns = netns;
	key->port = port;
	key->pad = 0;
	__builtin_memcpy(key->address, address, sizeof(key->address));
#pragma clang loop unroll(disable)
	for (int any = 0; any < 3; any++) {
		listener = sa_own_listeners.lookup(key);
		if (listener) {
			*found = *listener;
			if (still_listens(found, key))
				return 1;
		}
		listener = sa_listeners.lookup(key);
		if (listener) {
			*found = *listener;
			if (still_listens(found, key))
				return 1;
		}
		if (any)
			key->address[2] = 0;
		key->address[3] = 0;
	}
	return 0;
}

/* The slot of the target that has the listener in its cgroup, or that the listener serves; 0 if there is none. */
static inline u32 slot_of_listener(struct listener *listener, struct listener_key *key)
{
	u32 slot = slot_of_cgroup(READ_U64(listener->sock, OFFSET_sock_cgroup));
	u32 *served = slot ? NULL : sa_served.lookup(key);

	return served ? *served : slot;
}

/* Whether an accepting end may come from this listener: the kernel gives it the listener's cgroup. */
static inline int is_child(u64 sock, struct listener *listener)
{
	return READ_U64(sock, OFFSET_sock_cgroup) == READ_U64(listener->sock, OFFSET_sock_cgroup);
}

static inline void read_listener_key(u64 sock, struct listener_key *key)
{
	key->netns = sock_netns(sock);
	key->port = READ_AS(u16, sock, OFFSET_sock_num);
	read_address(sock, OFFSET_sock_rcv_saddr, OFFSET_sock_v6_rcv_saddr, key->address);
}

/*
 * task: that has it. Returns 1 if a target has the listener, so that forget_listener() should be called when it is
 * closed.
 */
static inline int remember_listener(u64 sock, u64 task, u32 mptcp)
{
	int zero = 0;
	struct settings *settings = sa_settings.lookup(&zero);
	struct listener listener = {.sock = sock, .mptcp = mptcp};
	struct listener_key key = {};
	u32 slot;

	read_listener_key(sock, &key);
	listener.pid = READ_U32(task, OFFSET_task_tgid);
	read_name(task, listener.comm);
	read_executable(file_of_task(task), &listener.executable);
	if (settings)
		listener.search = settings->search;
	slot = slot_of_listener(&listener, &key);
	if (slot) {
		if (!sa_own_listeners.update(&key, &listener))
			return 1;
		turn_away(slot, LISTENERS_TURNED_AWAY);
	}
	sa_listeners.update(&key, &listener);
	return 0;
}

/* Another socket may have its key by now. */
static inline void forget_listener(u64 sock)
{
	struct listener_key key = {};
	struct listener *listener;

	read_listener_key(sock, &key);
	listener = sa_own_listeners.lookup(&key);
	if (listener && listener->sock == sock)
		sa_own_listeners.delete(&key);
}
