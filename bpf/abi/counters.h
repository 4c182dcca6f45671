/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Everything that is counted, for each target and CPU. A name and its sentence are what D-Bus and sockaccelctl
 * show. TOTAL counts traffic; CONNECTION says why a covered connection is not accelerated; MESSAGE says why TCP
 * carried a message of an accelerated connection.
 */
#ifndef SOCKACCEL_ABI_COUNTERS_H
#define SOCKACCEL_ABI_COUNTERS_H

#define COUNTERS(X)                                                                                               \
	X(CONNECTIONS, TOTAL, "connections of which both ends were joined")                                       \
	X(CONNECTIONS_CLOSED, TOTAL, "joined ends that were closed by their owner")                               \
	X(REDIRECTED_MESSAGES, TOTAL, "messages handed straight to the peer")                                     \
	X(REDIRECTED_BYTES, TOTAL, "bytes handed straight to the peer")                                           \
	X(TCP_MESSAGES, TOTAL, "messages of joined ends that the verdict left to TCP")                            \
	X(TCP_BYTES, TOTAL, "bytes of joined ends that went by TCP")                                              \
	X(ADOPTED, TOTAL, "connections that were there before, of which both ends were joined")                   \
	X(EVENTS_SUPPRESSED, TOTAL, "connection events above the limit per second")                               \
	X(PROGRAMS_TURNED_AWAY, TOTAL, "executables above the limit, which are not remembered")                   \
	X(EVENTS_LOST, TOTAL, "connection events that found the ring buffer full")                                \
	X(LISTENERS_TURNED_AWAY, TOTAL, "listeners of targets above the limit")                                   \
	X(NOT_LOCAL, CONNECTION, "the other end is not on this host, or in a network namespace apart")            \
	X(OTHER_NAMESPACE, CONNECTION, "its target keeps network namespaces apart (OtherNamespaces=)")            \
	X(FOREIGN_OWNER, CONNECTION, "different user namespaces own the network namespaces of its ends")          \
	X(CLIENT_UNSEEN, CONNECTION, "only the accepting end was seen; the connecting end is no candidate")       \
	X(MISSED, CONNECTION, "older than the enabling of its target, and its other end was not found")           \
	X(EXCLUDED, CONNECTION, "the configuration leaves it to TCP (Include...=, Exclude...=)")                  \
	X(KERNEL_SOCKET, CONNECTION, "an end belongs to the kernel itself")                                       \
	X(MPTCP, CONNECTION, "an end is a Multipath TCP socket")                                                  \
	X(SELF_CONNECT, CONNECTION, "the socket is connected to itself")                                          \
	X(REPAIR, CONNECTION, "the socket is being restored from a checkpoint")                                   \
	X(FAST_OPEN, CONNECTION, "made by TCP Fast Open, and its accepting end is no candidate")                  \
	X(FOREIGN_SOCKMAP, CONNECTION, "another program's sockmap owns the socket")                               \
	X(TWICE_CLAIMED, CONNECTION, "two sockets claim to be one of its ends")                                   \
	X(MAP_FULL, CONNECTION, "the limit of connections is reached")                                            \
	X(NOT_KEPT, CONNECTION, "as many connections are kept track of as MaximumConnections= allows")            \
	X(UNSUPPORTED, CONNECTION, "the kernel refuses this kind of socket")                                      \
	X(SHORT, CONNECTION, "closed before it was old enough to join")                                           \
	X(BLOCKING_END, CONNECTION, "an end does blocking reads (no O_NONBLOCK)")                                 \
	X(UNACCEPTED, CONNECTION, "its server did not accept it within half a minute")                            \
	X(ULP_END, CONNECTION, "an end runs kernel TLS, PSP or another upper protocol")                           \
	X(ZEROCOPY_END, CONNECTION, "an end set SO_ZEROCOPY")                                                     \
	X(OPTION_END, CONNECTION, "an end set SO_OOBINLINE, SO_TIMESTAMP(ING), TCP_INQ")                          \
	X(FILTER_END, CONNECTION, "an end set SO_ATTACH_FILTER")                                                  \
	X(CGROUP_FILTER_END, CONNECTION, "its unit or slice has IPAccounting=, IPAddressDeny= or the like")       \
	X(IPSEC_END, CONNECTION, "IPsec policies of an end or of its network namespace")                          \
	X(FWMARK_END, CONNECTION, "an end set SO_MARK")                                                           \
	X(DEVICE_END, CONNECTION, "an end is bound to a device (SO_BINDTODEVICE, VRF)")                           \
	X(HOP_LIMIT_END, CONNECTION, "an end set IP_MINTTL or IPV6_MINHOPCOUNT")                                  \
	X(IP_OPTIONS_END, CONNECTION, "an end sends IP options or extension headers")                             \
	X(SIGNED_END, CONNECTION, "an end signs segments (TCP_MD5SIG, TCP_AO)")                                   \
	X(RATE_END, CONNECTION, "an end set SO_MAX_PACING_RATE or TCP_TX_DELAY")                                  \
	X(SPLICE_END, CONNECTION, "an end reads by splice()")                                                     \
	X(SPLICE_UNREAD, CONNECTION, "broken: an end called splice() while it held redirected bytes unread")      \
	X(FIONREAD_END, CONNECTION, "an end asks FIONREAD, which this kernel answers wrongly for it")             \
	X(READ_FLAGS_END, CONNECTION, "an end reads with MSG_OOB or MSG_TRUNC, or waits with MSG_WAITALL")        \
	X(KNOWN_PROGRAM, CONNECTION, "its program is known to lose bytes or to stall (sockaccelctl programs)")    \
	X(LONELY, CONNECTION, "the other end is no candidate, or is gone")                                        \
	X(PAUSED, CONNECTION, "paused: TCP carried nearly all its messages")                                      \
	X(DRAINED, CONNECTION, "its target was disabled")                                                         \
	X(SWITCHED_OFF, MESSAGE, "the target is switched off and its connections drain")                          \
	X(LEAVING, MESSAGE, "the connection is about to leave the map, for a pause or for good")                  \
	X(NO_PEER, MESSAGE, "the other end has not joined")                                                       \
	X(PEER_GONE, MESSAGE, "the other end is closed")                                                          \
	X(SHUT_DOWN, MESSAGE, "the sender has shut down its side")                                                \
	X(ORDER, MESSAGE, "the reader has not yet read all that TCP carried before")                              \
	X(UNPROVEN, MESSAGE, "the reader has not read by recv() what TCP carried before: it may splice()")        \
	X(OVERTAKING, MESSAGE, "failed with EACCES: the reader splices and would miss redirected bytes")          \
	X(BACKLOG, MESSAGE, "the reader is behind and TCP's flow control takes over")                             \
	X(READER_BUSY, MESSAGE, "the reader is inside a call of its own at this moment")                          \
	X(MEMORY, MESSAGE, "the kernel or the reader's cgroup is short of memory for sockets")                    \
	X(NOT_ACCEPTED, MESSAGE, "the reader's program has not accepted the connection yet")                      \
	X(BLOCKING, MESSAGE, "an end does blocking reads (no O_NONBLOCK)")                                        \
	X(LOW_WATER, MESSAGE, "the reader set SO_RCVLOWAT")                                                       \
	X(PEEK_OFFSET, MESSAGE, "the reader set SO_PEEK_OFF")                                                     \
	X(ZEROCOPY, MESSAGE, "the sender set SO_ZEROCOPY")                                                        \
	X(ULP, MESSAGE, "an end runs kernel TLS, PSP or another upper protocol")                                  \
	X(FILTER, MESSAGE, "the reader set SO_ATTACH_FILTER")                                                     \
	X(CGROUP_FILTER, MESSAGE, "an end's unit or slice has IPAccounting=, IPAddressDeny= or the like")         \
	X(IPSEC, MESSAGE, "an end or its network namespace has IPsec policies")                                   \
	X(FWMARK, MESSAGE, "an end set SO_MARK")                                                                  \
	X(DEVICE, MESSAGE, "an end is bound to a device (SO_BINDTODEVICE, VRF)")                                  \
	X(HOP_LIMIT, MESSAGE, "the reader set IP_MINTTL or IPV6_MINHOPCOUNT")                                     \
	X(IP_OPTIONS, MESSAGE, "the sender sends IP options or extension headers")                                \
	X(SIGNED, MESSAGE, "an end signs its segments (TCP_MD5SIG, TCP_AO)")                                      \
	X(RATE, MESSAGE, "the sender set SO_MAX_PACING_RATE or TCP_TX_DELAY")                                     \
	X(TIMESTAMPS, MESSAGE, "an end set SO_TIMESTAMPING")                                                      \
	X(EXTRAS, MESSAGE, "the reader set SO_OOBINLINE, SO_TIMESTAMP or TCP_INQ")                                \
	X(REPAIR_MODE, MESSAGE, "an end is being checkpointed (TCP_REPAIR)")                                      \
	X(SEND_FLAGS, MESSAGE, "sent with MSG_OOB, MSG_MORE or MSG_ZEROCOPY")                                     \
	X(CORK, MESSAGE, "the sender set TCP_CORK")                                                               \
	X(HEARTBEAT, MESSAGE, "sent by TCP after a while without, so that whatever lies between sees life")       \
	X(COALESCE, MESSAGE, "a small message behind unread ones, which TCP carries better together")             \
	X(REFUSED, MESSAGE, "the kernel declined the redirect")

#endif
