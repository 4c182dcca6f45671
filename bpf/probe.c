/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For the daemon's start-up probes, on two sockets of the daemon's own in a map of their own: redirects without a
 * check.
 */

int sockaccel_probe(struct sk_msg_md *msg)
{
	u64 receiver = 1;
	int zero = 0;
	u32 *redirect = sa_probe_mode.lookup(&zero);

	if (redirect && *redirect)
		sa_probe_pair.msg_redirect_hash(msg, &receiver, BPF_F_INGRESS);
	return SK_PASS;
}
