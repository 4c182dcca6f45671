# SPDX-License-Identifier: GPL-2.0-or-later
"""What the BPF programs and the daemon share. Made by tools/generate-abi: change bpf/abi/*.h."""

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

from sockaccel.core.connection import Counter

LEAD_COUNTERS = 12
# Names of directories and mounts on the way to an executable that are read, and bytes of each.
PATH_PARTS = 16
PATH_PART = 64
# Their product.
PATH_BYTES = 1024
# Ends that an audit can remember.
MAX_MISSED = 16384
# Ends in one part of a listing. Larger parts do not make a listing of 100,000 connections faster.
MAX_LISTED = 4096
# Ends after which a walk interrupts itself, so that others can have the CPU. The kernel then looks for its place
# again from the start of the bucket: smaller parts make a walk over 100,000 ends longer.
MAX_WALKED = 4096
# Pages of the ring buffer; a power of two.
EVENT_PAGES = 64


class Look(IntEnum):
    """`enum look`.

    What the walk over open files is for. The search for sockets remembers listeners and the ends of connections
    that are older than their target, and further walks adopt those. An audit takes two: the first finds the
    sockets of a cgroup, the second the other ends of their connections.
    """

    SEARCH = 0
    ADOPT = 1
    ADOPT_LAST = 2
    ENDS = 3
    PEERS = 4


class OpenFlag(IntFlag):
    """`enum open_flag`."""

    LISTENS = 1
    LOCAL = 2
    BLOCKS = 4
    JOINED = 8
    URGENT = 16


class EndState(IntEnum):
    """`enum end_state`.

    How far an end has come.
    """

    CONNECTING = 0
    CANDIDATE = 1
    JOINED = 2
    LEFT = 3


class EventKind(IntEnum):
    """`enum event_kind`.

    What an event tells. EVENT_CONNECTION is a line of a listing, or an end that cannot be evicted yet.
    EVENT_PROGRAM is about no end: there is something new in sa_programs.
    """

    JOINED = 0
    REFUSED = 1
    FALLBACK = 2
    CLOSED = 3
    EVICTED = 4
    SWEEP_WANTED = 5
    CONNECTION = 6
    BROKEN = 7
    PROGRAM = 8


class EventFlag(IntFlag):
    """`enum event_flag`.

    ADOPTED: the connection is older than the enabling of its target. AWAITS_HEARTBEAT: see HEARTBEAT in
    counters.h.
    """

    ADOPTED = 1
    AWAITS_HEARTBEAT = 2


class InterceptionFlag(IntFlag):
    """`enum interception_flag`."""

    ON = 1
    BYPASS = 2


class OwnerKind(IntEnum):
    """`enum owner_kind`.

    Whose a cgroup is: a kind in the upper 16 bits, and in the lower ones the slot of a target, or the number of a
    proxy. 0 is nobody's.
    """

    NOBODY = 0
    TARGET = 1
    PROXY = 2


class LeadWalk(IntEnum):
    """`enum lead_walk`.

    What a walk over the open files takes note of.
    """

    DOORS = 0
    ENTRANCES = 1


class LeadCounter(IntEnum):
    """`enum lead_counter`.

    What happened to the connections of a slot.
    """

    LED = 0
    EXCEPTED = 1
    OWN_LISTENER = 2
    PROXY_DOWN = 3
    BYPASSED = 4
    ORIGIN_GIVEN = 5
    MPTCP = 6
    NO_ROOM = 7
    LED_IN = 8
    PROXY_DOWN_IN = 9
    BYPASSED_IN = 10
    UNREACHED = 11


class LeadHappening(IntEnum):
    """`enum lead_happening`.

    Down and back: the proxy of a slot, at the port `about`. Drained: no led connection waits any more for its
    proxy. Elsewhere: a target wants an entrance in the network namespace with the inode number `about`, in which
    nothing leads.
    """

    DOWN = 0
    BACK = 1
    DRAINED = 2
    ELSEWHERE = 3


class KnowledgeFlag(IntFlag):
    """`enum knowledge_flag`.

    What is known of a program.
    """

    SPLICES = 1
    ASKS_FIONREAD = 2
    BLOCKS = 4
    DISCARDS = 8
    WAITS_FOR_ALL = 16
    LISTENS = 32


class RuleKind(IntEnum):
    """`enum rule_kind`.

    What a rule compares. RULE_END ends the list.
    """

    END = 0
    PORT = 1
    ADDRESS = 2
    USER = 3


class Walk(IntEnum):
    """`enum walk`.

    What a walk does with each end that it meets.
    """

    LIST = 0
    JUDGE = 1
    EVICT = 2


class Urgency(IntEnum):
    """`enum urgency`.

    How soon a sweep is wanted: for candidates it can wait until they are old enough, for members that must leave
    not.
    """

    NONE = 0
    LATER = 1
    NOW = 2


class TargetFlag(IntFlag):
    """`enum target_flag`."""

    ON = 1
    BLOCKING_READERS = 2
    RECV_WATCHED = 4
    OTHER_NAMESPACES = 8
    ADOPTS = 16


class FlowRecord(NamedTuple):
    """`struct flow`, 48 bytes: `FLOW` packs it.

    A connection as one of its ends sees it. Addresses are in network order. IPv4 is written as ::ffff:a.b.c.d
    whatever the socket's family, so that an IPv4 client of a [::] listener finds its peer. Ports are in host
    order.
    """

    netns: int
    local: bytes
    remote: bytes
    local_port: int
    remote_port: int
    pad: int


FLOW = struct.Struct('=Q16s16s2HI')


class PairKeyRecord(NamedTuple):
    """`struct pair_key`, 8 bytes: `PAIR_KEY` packs it.

    What an established end knows its connection by: the numbers of the first byte that it sends and of the first
    one that it receives. The peer has the same two the other way round, whatever address translation and however
    many network namespaces lie between.
    """

    sent: int
    received: int


PAIR_KEY = struct.Struct('=2I')


class ListenerKeyRecord(NamedTuple):
    """`struct listener_key`, 32 bytes: `LISTENER_KEY` packs it.

    Where a listener listens. Address and port are as in struct flow.
    """

    netns: int
    address: bytes
    port: int
    pad: int


LISTENER_KEY = struct.Struct('=Q16s2I')


class AuditRecord(NamedTuple):
    """`struct audit`, 16 bytes: `AUDIT` packs it.

    The daemon's wishes for the walk. cgroup: the id of the one that is audited.
    """

    cgroup: int
    look: int
    pad: int


AUDIT = struct.Struct('=Q2I')


class OpenSocketRecord(NamedTuple):
    """`struct open_socket`, 120 bytes: `OPEN_SOCKET` packs it.

    An open socket as an audit sees it. key: that of an accepting end; a connecting one has sent a byte less. sent,
    received: bytes since the connection was made, those that were redirected counted where they were sent;
    segments are those with data. reason: why the end would stay with TCP (counters.h), 0 for none.
    """

    flow: bytes
    key: bytes
    cookie: int
    sent: int
    received: int
    sent_segments: int
    received_segments: int
    pid: int
    reason: int
    flags: int
    user: int
    program: bytes


OPEN_SOCKET = struct.Struct('=48s8s3Q6I16s')


class EventRecord(NamedTuple):
    """`struct event`, 176 bytes: `EVENT` packs it.

    What is told about one end, in the ring buffer, in a listing, and by the walk that evicts. Times are
    CLOCK_MONOTONIC; bytes and messages are those that this end sent; reason and marked are counters (counters.h),
    0 for none. An end that is not established yet has the key 0, 0.
    """

    flow: bytes
    key: bytes
    time_ns: int
    cookie: int
    peer_cookie: int
    cgroup: int
    redirected_bytes: int
    redirected_messages: int
    tcp_bytes: int
    tcp_messages: int
    kind: int
    reason: int
    slot: int
    generation: int
    active: int
    pid: int
    marked: int
    state: int
    flags: int
    pad: int
    program: bytes


EVENT = struct.Struct('=48s8s8Q10I16s')


class KeptRecord(NamedTuple):
    """`struct kept`, 32 bytes: `KEPT` packs it.

    What was counted since the maps were made; it only grows. ends: those that were kept; left: those of them that
    were LEFT when they were kept or established. Then those for which there was no place.
    """

    ends: int
    left: int
    ends_turned_away: int
    listeners_turned_away: int


KEPT = struct.Struct('=4Q')


class InterceptionRecord(NamedTuple):
    """`struct interception`, 16 bytes: `INTERCEPTION` packs it.

    What a slot holds. proxy: the owner whose listeners take the connections. outbound: its port for those that the
    target makes, in host order; 0 if they are not led.
    """

    flags: int
    proxy: int
    outbound: int
    pad: int


INTERCEPTION = struct.Struct('=4I')


class PlaceRecord(NamedTuple):
    """`struct place`, 256 bytes: `PLACE` packs it.

    A cgroup by the id of the one above it and by its own name. systemd makes the cgroup of a unit anew at each
    start; this key is then the same, so that the first connection of the new one is led too.
    """

    parent: int
    name: bytes


PLACE = struct.Struct('=Q248s')


class InboundKeyRecord(NamedTuple):
    """`struct inbound_key`, 8 bytes: `INBOUND_KEY` packs it.

    A port of a target, in host order, at which connections to it are led.
    """

    slot: int
    port: int


INBOUND_KEY = struct.Struct('=2I')


class InboundRecord(NamedTuple):
    """`struct inbound`, 8 bytes: `INBOUND` packs it.

    port: that of the proxy which takes them. which: a bit of its own in sa_lead_down.
    """

    port: int
    which: int


INBOUND = struct.Struct('=2I')


class EntranceRecord(NamedTuple):
    """`struct entrance`, 24 bytes: `ENTRANCE` packs it.

    Where a target takes connections that are led. network: the number of the network namespace, from 1. address:
    as in struct flow, zero for every one. port: in host order.
    """

    network: int
    port: int
    address: bytes


ENTRANCE = struct.Struct('=2I16s')


class DoorRecord(NamedTuple):
    """`struct door`, 16 bytes: `DOOR` packs it.

    A listener of a proxy that takes connections to targets: the one with a number among those of a port.
    """

    network: int
    port: int
    family: int
    number: int


DOOR = struct.Struct('=4I')


class DoorPortRecord(NamedTuple):
    """`struct door_port`, 8 bytes: `DOOR_PORT` packs it.

    A port of a proxy at which such connections are taken. owner: as in sa_owners.
    """

    owner: int
    port: int


DOOR_PORT = struct.Struct('=2I')


class OriginRecord(NamedTuple):
    """`struct origin`, 40 bytes: `ORIGIN` packs it.

    Where an application wanted to go. Addresses are as in struct flow, the port is in host order.
    """

    address: bytes
    port: int
    slot: int
    accepted: int
    sequence: int
    cookie: int


ORIGIN = struct.Struct('=16s4IQ')


class LedRecord(NamedTuple):
    """`struct led`, 40 bytes: `LED` packs it.

    A socket that was led, as a walk prints it: its cookie and network namespace, and where it wanted to go.
    """

    cookie: int
    netns: int
    address: bytes
    port: int
    pad: int


LED = struct.Struct('=2Q16s2I')


class LeadEventRecord(NamedTuple):
    """`struct lead_event`, 16 bytes: `LEAD_EVENT` packs it."""

    slot: int
    happening: int
    about: int
    pad: int


LEAD_EVENT = struct.Struct('=4I')


class ExecutableRecord(NamedTuple):
    """`struct executable`, 16 bytes: `EXECUTABLE` packs it.

    A program's file as the kernel knows it: inode number, and s_dev of its file system (20 bits are the minor).
    """

    inode: int
    device: int
    pad: int


EXECUTABLE = struct.Struct('=Q2I')


class ProgramRecord(NamedTuple):
    """`struct program`, 1040 bytes: `PROGRAM` packs it.

    What a watcher has seen a program do, or the daemon remembers. path: the names on the way to its file, the last
    one first, PATH_PART bytes each, some empty; all are where the daemon wrote it. since_ns: CLOCK_MONOTONIC.
    """

    since_ns: int
    knowledge: int
    pid: int
    path: bytes


PROGRAM = struct.Struct('=Q2I1024s')


class ProgramNameRecord(NamedTuple):
    """`struct program_name`, 16 bytes: `PROGRAM_NAME` packs it.

    The name of a process, as /proc/PID/comm has it.
    """

    name: bytes


PROGRAM_NAME = struct.Struct('=16s')


class ListenerRecord(NamedTuple):
    """`struct listener`, 56 bytes: `LISTENER` packs it.

    A listening socket. It may be gone: it is believed only while what is read from it still listens on the same
    port. search: the number of the search for sockets during or after which it was seen last.
    """

    sock: int
    pid: int
    mptcp: int
    search: int
    pad: int
    comm: bytes
    executable: bytes


LISTENER = struct.Struct('=Q4I16s16s')


class RuleRecord(NamedTuple):
    """`struct rule`, 48 bytes: `RULE` packs it.

    One rule of a target. first and last are ports or user ids; address and mask are as in struct flow.
    """

    kind: int
    exclude: int
    first: int
    last: int
    address: bytes
    mask: bytes


RULE = struct.Struct('=4I16s16s')


class RulesRecord(NamedTuple):
    """`struct rules`, 3072 bytes: `RULES` packs it.

    All rules of a target.
    """

    rule: bytes


RULES = struct.Struct('=3072s')


class SettingsRecord(NamedTuple):
    """`struct settings`, 120 bytes: `SETTINGS` packs it.

    The daemon's wishes, and what a walk answers: next_due_ns, leaving, found, found_left, listed, blocking,
    unknown_owners, unseen_clients, found_clients and broken.
    """

    events_per_second: int
    walk: int
    next_due_ns: int
    leaving: int
    found: int
    found_left: int
    last_found: int
    last_found_left: int
    counted: int
    counted_left: int
    listed: int
    rest_of_part: int
    search: int
    blocking: int
    remembers: int
    unknown_owners: int
    root: int
    unseen_clients: int
    found_clients: int
    broken: int
    pad: int


SETTINGS = struct.Struct('=2I8Q6IQ4I')


class TargetRecord(NamedTuple):
    """`struct target`, 32 bytes: `TARGET` packs it.

    What a slot holds. A slot is used again after its target is gone; the generation tells the connections of the
    earlier target from those of the present one.
    """

    generation: int
    flags: int
    join_after_ns: int
    heartbeat_ns: int
    policy: int
    pad: int


TARGET = struct.Struct('=2I2Q2I')


# In the order in which `struct counters` has them.
COUNTERS = [
    Counter(*row)
    for row in (
        ('connections', 'total', 'connections of which both ends were joined'),
        ('connections_closed', 'total', 'joined ends that were closed by their owner'),
        ('redirected_messages', 'total', 'messages handed straight to the peer'),
        ('redirected_bytes', 'total', 'bytes handed straight to the peer'),
        ('tcp_messages', 'total', 'messages of joined ends that the verdict left to TCP'),
        ('tcp_bytes', 'total', 'bytes of joined ends that went by TCP'),
        ('adopted', 'total', 'connections that were there before, of which both ends were joined'),
        ('events_suppressed', 'total', 'connection events above the limit per second'),
        ('programs_turned_away', 'total', 'executables above the limit, which are not remembered'),
        ('events_lost', 'total', 'connection events that found the ring buffer full'),
        ('listeners_turned_away', 'total', 'listeners of targets above the limit'),
        ('not_local', 'connection', 'the other end is not on this host, or in a network namespace apart'),
        ('other_namespace', 'connection', 'its target keeps network namespaces apart (OtherNamespaces=)'),
        ('foreign_owner', 'connection', 'different user namespaces own the network namespaces of its ends'),
        ('client_unseen', 'connection', 'only the accepting end was seen; the connecting end is no candidate'),
        ('missed', 'connection', 'older than the enabling of its target, and its other end was not found'),
        ('excluded', 'connection', 'the configuration leaves it to TCP (Include...=, Exclude...=)'),
        ('kernel_socket', 'connection', 'an end belongs to the kernel itself'),
        ('mptcp', 'connection', 'an end is a Multipath TCP socket'),
        ('self_connect', 'connection', 'the socket is connected to itself'),
        ('repair', 'connection', 'the socket is being restored from a checkpoint'),
        ('fast_open', 'connection', 'made by TCP Fast Open, and its accepting end is no candidate'),
        ('foreign_sockmap', 'connection', "another program's sockmap owns the socket"),
        ('twice_claimed', 'connection', 'two sockets claim to be one of its ends'),
        ('map_full', 'connection', 'the limit of connections is reached'),
        ('not_kept', 'connection', 'as many connections are kept track of as MaximumConnections= allows'),
        ('unsupported', 'connection', 'the kernel refuses this kind of socket'),
        ('short', 'connection', 'closed before it was old enough to join'),
        ('blocking_end', 'connection', 'an end does blocking reads (no O_NONBLOCK)'),
        ('unaccepted', 'connection', 'its server did not accept it within half a minute'),
        ('ulp_end', 'connection', 'an end runs kernel TLS, PSP or another upper protocol'),
        ('zerocopy_end', 'connection', 'an end set SO_ZEROCOPY'),
        ('option_end', 'connection', 'an end set SO_OOBINLINE, SO_TIMESTAMP(ING), TCP_INQ'),
        ('filter_end', 'connection', 'an end set SO_ATTACH_FILTER'),
        ('cgroup_filter_end', 'connection', 'its unit or slice has IPAccounting=, IPAddressDeny= or the like'),
        ('ipsec_end', 'connection', 'IPsec policies of an end or of its network namespace'),
        ('fwmark_end', 'connection', 'an end set SO_MARK'),
        ('device_end', 'connection', 'an end is bound to a device (SO_BINDTODEVICE, VRF)'),
        ('hop_limit_end', 'connection', 'an end set IP_MINTTL or IPV6_MINHOPCOUNT'),
        ('ip_options_end', 'connection', 'an end sends IP options or extension headers'),
        ('signed_end', 'connection', 'an end signs segments (TCP_MD5SIG, TCP_AO)'),
        ('rate_end', 'connection', 'an end set SO_MAX_PACING_RATE or TCP_TX_DELAY'),
        ('splice_end', 'connection', 'an end reads by splice()'),
        ('splice_unread', 'connection', 'broken: an end called splice() while it held redirected bytes unread'),
        ('fionread_end', 'connection', 'an end asks FIONREAD, which this kernel answers wrongly for it'),
        ('read_flags_end', 'connection', 'an end reads with MSG_OOB or MSG_TRUNC, or waits with MSG_WAITALL'),
        ('known_program', 'connection', 'its program is known to lose bytes or to stall (sockaccelctl programs)'),
        ('lonely', 'connection', 'the other end is no candidate, or is gone'),
        ('paused', 'connection', 'paused: TCP carried nearly all its messages'),
        ('drained', 'connection', 'its target was disabled'),
        ('switched_off', 'message', 'the target is switched off and its connections drain'),
        ('leaving', 'message', 'the connection is about to leave the map, for a pause or for good'),
        ('no_peer', 'message', 'the other end has not joined'),
        ('peer_gone', 'message', 'the other end is closed'),
        ('shut_down', 'message', 'the sender has shut down its side'),
        ('order', 'message', 'the reader has not yet read all that TCP carried before'),
        ('unproven', 'message', 'the reader has not read by recv() what TCP carried before: it may splice()'),
        ('overtaking', 'message', 'failed with EACCES: the reader splices and would miss redirected bytes'),
        ('backlog', 'message', "the reader is behind and TCP's flow control takes over"),
        ('reader_busy', 'message', 'the reader is inside a call of its own at this moment'),
        ('memory', 'message', "the kernel or the reader's cgroup is short of memory for sockets"),
        ('not_accepted', 'message', "the reader's program has not accepted the connection yet"),
        ('blocking', 'message', 'an end does blocking reads (no O_NONBLOCK)'),
        ('low_water', 'message', 'the reader set SO_RCVLOWAT'),
        ('peek_offset', 'message', 'the reader set SO_PEEK_OFF'),
        ('zerocopy', 'message', 'the sender set SO_ZEROCOPY'),
        ('ulp', 'message', 'an end runs kernel TLS, PSP or another upper protocol'),
        ('filter', 'message', 'the reader set SO_ATTACH_FILTER'),
        ('cgroup_filter', 'message', "an end's unit or slice has IPAccounting=, IPAddressDeny= or the like"),
        ('ipsec', 'message', 'an end or its network namespace has IPsec policies'),
        ('fwmark', 'message', 'an end set SO_MARK'),
        ('device', 'message', 'an end is bound to a device (SO_BINDTODEVICE, VRF)'),
        ('hop_limit', 'message', 'the reader set IP_MINTTL or IPV6_MINHOPCOUNT'),
        ('ip_options', 'message', 'the sender sends IP options or extension headers'),
        ('signed', 'message', 'an end signs its segments (TCP_MD5SIG, TCP_AO)'),
        ('rate', 'message', 'the sender set SO_MAX_PACING_RATE or TCP_TX_DELAY'),
        ('timestamps', 'message', 'an end set SO_TIMESTAMPING'),
        ('extras', 'message', 'the reader set SO_OOBINLINE, SO_TIMESTAMP or TCP_INQ'),
        ('repair_mode', 'message', 'an end is being checkpointed (TCP_REPAIR)'),
        ('send_flags', 'message', 'sent with MSG_OOB, MSG_MORE or MSG_ZEROCOPY'),
        ('cork', 'message', 'the sender set TCP_CORK'),
        ('heartbeat', 'message', 'sent by TCP after a while without, so that whatever lies between sees life'),
        ('coalesce', 'message', 'a small message behind unread ones, which TCP carries better together'),
        ('refused', 'message', 'the kernel declined the redirect'),
    )
]
