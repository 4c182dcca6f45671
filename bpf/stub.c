/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The program under which sockets join, and which they keep for life. It calls the verdict through an array. The
 * kernel empties the array when the daemon is stopped, and from then on TCP carries everything.
 *
 * The stub also keeps the map of members alive, by naming it in a branch that no message takes. If the map were
 * freed, the kernel would drop all sockets from it with everything that they had not read (sock_hash_free() in
 * net/core/sock_map.c).
 */
int sockaccel_stub(struct sk_msg_md *msg)
{
	struct pair_key nowhere = {};

	sa_verdict.call(msg, 0);
	if (!msg->sk)
		sa_members.msg_redirect_hash(msg, &nowhere, BPF_F_INGRESS);
	return SK_PASS;
}
