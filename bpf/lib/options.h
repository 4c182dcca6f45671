/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an option of a socket, its cgroup or its network namespace says against redirects from it or to it. The
 * table "Rules" of docs/options.md has the why of each.
 */
#ifndef SOCKACCEL_OPTIONS_H
#define SOCKACCEL_OPTIONS_H

#include "lib/types.h"
#include "lib/view.h"

/* include/uapi/linux/xfrm.h */
#define XFRM_POLICY_IN 0
#define XFRM_POLICY_OUT 1
#define XFRM_USERPOLICY_ACCEPT 2
/* Where include/uapi/linux/ip.h has IPV4_DEVCONF_NOXFRM and IPV4_DEVCONF_NOPOLICY, which begin at 1. */
#define NOXFRM_INDEX 14
#define NOPOLICY_INDEX 15

/*
 * Whether a program sees, and may drop, the packets that sockets of a cgroup send or get
 * (CGROUP_INET_EGRESS, CGROUP_INET_INGRESS). An array without programs begins with 0.
 */
static inline int cgroup_sees_packets(enum access access, __u64 cgroup, __u32 type)
{
#ifdef OFFSET_cgroup_effective
	__u64 programs = cgroup ? AT(__u64, access, cgroup, OFFSET_cgroup_effective + 8 * type) : 0;

	return programs && AT(__u64, access, programs, OFFSET_prog_array_items);
#else
	return 0;
#endif
}

/* Whether IPv4 packets over a namespace's loopback device are exempt from its IPsec policies, as by default. */
static inline int loopback_is_exempt(enum access access, __u64 net)
{
	__u64 device = AT(__u64, access, net, OFFSET_net_loopback_dev);
	__u64 settings = device ? AT(__u64, access, device, OFFSET_net_device_ip_ptr) : 0;

	return settings && AT(__u32, access, settings, OFFSET_in_device_cnf + 4 * NOXFRM_INDEX) &&
	       AT(__u32, access, settings, OFFSET_in_device_cnf + 4 * NOPOLICY_INDEX);
}

/* Whether a namespace has IPsec policies. by_loopback: what IPv4 sends that way may be exempt. */
static inline int namespace_has_policies(enum access access, __u64 net, int by_loopback)
{
#ifdef OFFSET_net_policy_count
	if (!net)
		return 0;
	if (!AT(__u32, access, net, OFFSET_net_policy_count + 4 * XFRM_POLICY_IN) &&
	    !AT(__u32, access, net, OFFSET_net_policy_count + 4 * XFRM_POLICY_OUT) &&
	    AT(__u8, access, net, OFFSET_net_policy_default + XFRM_POLICY_IN) == XFRM_USERPOLICY_ACCEPT &&
	    AT(__u8, access, net, OFFSET_net_policy_default + XFRM_POLICY_OUT) == XFRM_USERPOLICY_ACCEPT)
		return 0;
	return !by_loopback || !loopback_is_exempt(access, net);
#else
	return 0;
#endif
}

/* What speaks against redirects from an end as well as to it. */
static inline __u32 reason_in_options(enum access access, const void *sock)
{
	if (FIELD(__u64, access, sock, sock_ulp))
		return ULP;
#ifdef OFFSET_sock_psp
	if (FIELD(__u64, access, sock, sock_psp))
		return ULP;
#endif
#ifdef OFFSET_sock_policy
	if (FIELD(__u64, access, sock, sock_policy) || FIELD(__u64, access, sock, sock_policy_out))
		return IPSEC;
#endif
	if (FIELD(__u32, access, sock, sock_mark))
		return FWMARK;
	if (FIELD(__u32, access, sock, sock_bound_dev_if))
		return DEVICE;
#ifdef OFFSET_tcp_sock_md5
	if (FIELD(__u64, access, sock, tcp_sock_md5))
		return SIGNED;
#endif
#ifdef OFFSET_tcp_sock_ao
	if (FIELD(__u64, access, sock, tcp_sock_ao))
		return SIGNED;
#endif
	/* 16 bits on 6.1, 32 later; those above are about single messages, and mean nothing without the others. */
	if (FIELD(__u16, access, sock, sock_tsflags))
		return TIMESTAMPS;
	if (FIELD_BITS(access, sock, tcp_sock_repair))
		return REPAIR_MODE;
	return NO_REASON;
}

/* What else a sender set for packets that leave. access: DIRECT or PROBED. */
static inline __u32 reason_in_options_of_sender(enum access access, const void *sock)
{
	/* tcp_bpf would never queue the completions for which the sender waits. */
	if (AT(__u64, access, sock, OFFSET_sock_flags) & (1ULL << SOCK_ZEROCOPY))
		return ZEROCOPY;
	if (cgroup_sees_packets(access, AT(__u64, access, sock, OFFSET_sock_cgroup), CGROUP_INET_EGRESS))
		return CGROUP_FILTER;
	if (AT(__u64, access, sock, OFFSET_inet_opt))
		return IP_OPTIONS;
#ifdef OFFSET_inet_pinet6
	__u64 ipv6 = AT(__u64, access, sock, OFFSET_inet_pinet6);

	if (ipv6 && AT(__u64, access, ipv6, OFFSET_ipv6_opt))
		return IP_OPTIONS;
#endif
	if (AT(__u64, access, sock, OFFSET_sock_max_pacing_rate) != ~0ULL)
		return RATE;
	if (AT(__u32, access, sock, OFFSET_tcp_sock_tx_delay))
		return RATE;
	return NO_REASON;
}

/* What else a reader set for packets that come in, or for what it gets with them. access: COPIED or PROBED. */
static inline __u32 reason_in_options_of_reader(enum access access, const void *sock)
{
	if (FIELD(__u64, access, sock, sock_filter))
		return FILTER;
	if (cgroup_sees_packets(PROBED, FIELD(__u64, access, sock, sock_cgroup), CGROUP_INET_INGRESS))
		return CGROUP_FILTER;
	if (FIELD(__u8, access, sock, inet_min_ttl))
		return HOP_LIMIT;
#ifdef OFFSET_inet_pinet6
	__u64 ipv6 = FIELD(__u64, access, sock, inet_pinet6);

	if (ipv6 && READ_U8(ipv6, OFFSET_ipv6_min_hopcount))
		return HOP_LIMIT;
#endif
	/* SO_OOBINLINE, SO_TIMESTAMP and the like. */
	if (FIELD(__u64, access, sock, sock_flags) &
	    (1ULL << SOCK_URGINLINE | 1ULL << SOCK_RCVTSTAMP | 1ULL << SOCK_TIMESTAMPING_RX_SOFTWARE))
		return EXTRAS;
#ifdef OFFSET_tcp_sock_recvmsg_inq
	if (FIELD_BITS(access, sock, tcp_sock_recvmsg_inq))
		return EXTRAS;
#endif
	return NO_REASON;
}

/* Under which name a reason against messages is counted once for the whole connection. */
static inline __u32 reason_of_connection(__u32 reason)
{
	if (reason == ULP)
		return ULP_END;
	if (reason == ZEROCOPY)
		return ZEROCOPY_END;
	if (reason == FILTER)
		return FILTER_END;
	if (reason == CGROUP_FILTER)
		return CGROUP_FILTER_END;
	if (reason == IPSEC)
		return IPSEC_END;
	if (reason == FWMARK)
		return FWMARK_END;
	if (reason == DEVICE)
		return DEVICE_END;
	if (reason == HOP_LIMIT)
		return HOP_LIMIT_END;
	if (reason == IP_OPTIONS)
		return IP_OPTIONS_END;
	if (reason == SIGNED)
		return SIGNED_END;
	if (reason == RATE)
		return RATE_END;
	if (reason == REPAIR_MODE)
		return REPAIR;
	if (reason == TIMESTAMPS || reason == EXTRAS)
		return OPTION_END;
	return NO_REASON;
}

#endif
