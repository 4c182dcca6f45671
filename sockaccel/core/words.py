# SPDX-License-Identifier: GPL-2.0-or-later
"""The words of org.sockaccel1 that programs of others may depend on.

They are written out here, so that nothing that is renamed in the code can change what a client reads. A word may
be added; none may be changed or taken away (tests/unit/core/test_words.py).
"""

from sockaccel import errors
from sockaccel.core.connection import ConnectionState, EventKind
from sockaccel.core.knowledge import Knowledge
from sockaccel.core.target import State
from sockaccel.core.watch import Traffic

BUS_NAME = 'org.sockaccel1'
OBJECT_PATH = '/org/sockaccel1'
MANAGER = 'org.sockaccel1.Manager'

TARGET_STATES = {
    State.ACTIVE: 'active',
    State.WAITING: 'waiting',
    State.REFUSED: 'refused',
    State.DRAINING: 'draining',
    State.PROBATION: 'probation',
}
# The state of what is no target any more.
DISABLED = 'disabled'
# Where a value of a target's policy is from that Enable or SetPolicy chose.
CHOSEN = 'set'

CONNECTION_STATES = {
    ConnectionState.CONNECTING: 'connecting',
    ConnectionState.CANDIDATE: 'candidate',
    ConnectionState.JOINED: 'joined',
    ConnectionState.LEFT: 'left',
}

# Which way the last messages of a connection went; "mixed": by TCP in one direction alone.
PATHS = ('redirect', 'tcp', 'mixed')

# How the ends of a connection talk.
TRAFFIC = {Traffic.IDLE: 'idle', Traffic.REQUESTS: 'requests', Traffic.STREAM: 'stream'}

# Events of other kinds stay inside the daemon.
EVENT_KINDS = {
    EventKind.JOINED: 'joined',
    EventKind.REFUSED: 'refused',
    EventKind.FALLBACK: 'fallback',
    EventKind.CLOSED: 'closed',
    EventKind.EVICTED: 'evicted',
    EventKind.BROKEN: 'broken',
}

# What is known of a program.
KNOWLEDGE = {
    Knowledge.SPLICES: 'splices',
    Knowledge.ASKS_FIONREAD: 'asks_fionread',
    Knowledge.BLOCKS: 'blocks',
    Knowledge.DISCARDS: 'discards',
    Knowledge.WAITS_FOR_ALL: 'waits_for_all',
    Knowledge.LISTENS: 'listens',
}
# From where: programs.conf, or a watcher.
PROGRAM_SOURCES = ('listed', 'seen')

# See `sockaccel.core.finding.Finding`.
SEVERITIES = ('ok', 'note', 'issue')

# The names of the counters in bpf/abi/counters.h, by kind. Those of connections and messages are reasons.
COUNTERS = {
    'total': (
        'connections', 'connections_closed', 'redirected_messages', 'redirected_bytes', 'tcp_messages',
        'tcp_bytes', 'adopted', 'events_suppressed', 'programs_turned_away', 'events_lost',
        'listeners_turned_away',
    ),
    'connection': (
        'not_local', 'other_namespace', 'foreign_owner', 'client_unseen', 'missed', 'excluded', 'kernel_socket',
        'mptcp', 'self_connect', 'repair', 'fast_open', 'foreign_sockmap', 'twice_claimed', 'map_full',
        'unsupported', 'short', 'not_kept', 'blocking_end', 'unaccepted', 'ulp_end', 'zerocopy_end', 'option_end',
        'filter_end', 'cgroup_filter_end', 'ipsec_end', 'fwmark_end', 'device_end', 'hop_limit_end',
        'ip_options_end', 'signed_end', 'rate_end', 'splice_end', 'splice_unread', 'fionread_end',
        'read_flags_end', 'known_program', 'lonely', 'paused', 'drained',
    ),
    'message': (
        'leaving', 'switched_off', 'no_peer', 'peer_gone', 'shut_down', 'order', 'unproven', 'overtaking',
        'backlog', 'reader_busy', 'memory', 'not_accepted', 'blocking', 'low_water', 'peek_offset', 'zerocopy',
        'ulp', 'filter', 'cgroup_filter', 'ipsec', 'fwmark', 'device', 'hop_limit', 'ip_options', 'signed', 'rate',
        'timestamps', 'extras', 'repair_mode', 'send_flags', 'cork', 'heartbeat', 'coalesce', 'refused',
    ),
}  # fmt: skip

# What happened to connections that an interception concerns, by the names of bpf/abi/lead.h.
LEAD_COUNTERS = {
    'led': 'connections that were led to the proxy',
    'excepted': 'connections that went direct because an exception fits them',
    'own_listener': "connections that went direct because the target's own listener, or the proxy's, answers",
    'proxy_down': 'connections that were refused because the proxy did not listen',
    'bypassed': 'connections that went direct because the proxy did not listen',
    'origin_given': 'times that the proxy asked where a connection wanted to go, and was told',
    'mptcp': 'connections that went direct because they are of Multipath TCP',
    'no_room': 'connections that the proxy could not be told of, or that could not be led, for want of memory',
    'led_in': 'connections to the target that were led to the proxy',
    'proxy_down_in': 'connections to the target that were refused because the proxy did not listen',
    'bypassed_in': 'connections that reached the target because the proxy did not listen',
    'unreached': 'calls of bind() to a port that is led, in a network namespace in which nothing leads',
}

# What follows "org.sockaccel1.Error." in the name of an error. Errors of other classes are named "Failed".
ERRORS: dict[type[errors.SockaccelError], str] = {
    errors.InvalidTarget: 'InvalidTarget',
    errors.InvalidArgument: 'InvalidArgument',
    errors.InvalidConfiguration: 'InvalidConfiguration',
    errors.UnknownTarget: 'UnknownTarget',
    errors.ManagedByFile: 'ManagedByFile',
    errors.LimitExceeded: 'LimitExceeded',
    errors.NotPermitted: 'NotPermitted',
    errors.KernelIssue: 'KernelIssue',
    errors.KernelRefused: 'KernelRefused',
    errors.StateNotSaved: 'StateNotSaved',
}
_ERROR = 'org.sockaccel1.Error.'


def error_name(error: errors.SockaccelError) -> str:
    """The D-Bus name of an error."""
    return _ERROR + ERRORS.get(type(error), 'Failed')


def is_error(name: str, error: type[errors.SockaccelError]) -> bool:
    """Whether a D-Bus name is that of a class of errors."""
    return name == _ERROR + ERRORS[error]
