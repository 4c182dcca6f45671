# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection as users read it: a dictionary with the keys that org.sockaccel1(5) describes."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

from sockaccel.core import words
from sockaccel.core.connection import ConnectionState, unpack_address
from sockaccel.core.ends import End, EndFlag, Pair
from sockaccel.core.text import printable

Row = dict[str, Any]

# Those of one end, behind the prefix "client_" or "server_", in their order.
_OF_END = (
    'address', 'port', 'peer_address', 'peer_port', 'netns_cookie', 'state', 'cgroup', 'reason', 'program', 'pid',
    'redirected_bytes', 'redirected_messages', 'tcp_bytes', 'tcp_messages',
)  # fmt: skip
_OF_CLIENT, _OF_SERVER = (tuple(f'{end}_{key}' for key in _OF_END) for end in ('client', 'server'))


class Names(Protocol):
    """What the numbers of an end stand for."""

    @property
    def reasons(self) -> Sequence[str]:
        """The names of the counters, by index."""

    def target(self, slot: int) -> str:
        """The name of the target that has a slot, or had it last; '' for none."""

    def cgroup(self, number: int) -> str:
        """A cgroup's path, '' if it is gone or may not be known."""


def row(pair: Pair, names: Names, now_ns: int) -> Row:
    """now_ns: the time in CLOCK_MONOTONIC.

    A reason is why the last message that the end sent went by TCP, '' if it was redirected or there was none.
    path: one of words.PATHS. peer_address, peer_port: where the end believes its peer to be, which is not so where
    addresses are translated on the way. netns_cookie: that of the client, if it is known. state: "joined" if both
    ends have joined, otherwise that of one that has not.
    """
    client, server = pair
    one = client or server
    assert one
    state = state_of(pair)
    to_server, to_client = reasons_of(pair, names.reasons)
    found: Row = {
        'target': target_of(pair, names),
        'path': path_of(state, to_server, to_client),
        'state': words.CONNECTION_STATES[state],
        'age_ns': max(0, now_ns - one.time_ns),
        'netns_cookie': one.netns,
        'adopted': any(end and end.flags & EndFlag.ADOPTED for end in pair),
        'waiting_for_heartbeat': any(end and end.flags & EndFlag.AWAITS_HEARTBEAT for end in pair),
    }
    found.update(zip(_OF_CLIENT, _values(client, server, to_server, names), strict=True))
    found.update(zip(_OF_SERVER, _values(server, client, to_client, names), strict=True))
    return found


def _values(end: End | None, peer: End | None, reason: str, names: Names) -> tuple[Any, ...]:
    """In the order of _OF_END. Where the end is not known its peer knows where it is."""
    if end is None:
        assert peer
        return (
            _address(peer.remote), peer.remote_port, _address(peer.local), peer.local_port, 0, '', '', reason, '',
            0, 0, 0, 0, 0,
        )  # fmt: skip
    return (
        _address(end.local), end.local_port, _address(end.remote), end.remote_port, end.netns,
        words.CONNECTION_STATES[ConnectionState(end.state)], names.cgroup(end.cgroup), reason,
        program_of(end.program), end.pid, end.redirected_bytes, end.redirected_messages, end.tcp_bytes,
        end.tcp_messages,
    )  # fmt: skip


def target_of(pair: Pair, names: Names) -> str:
    """The name of the target that covers the connection."""
    client, server = pair
    one = client or server
    return names.target(one.slot) if one else ''


def state_of(pair: Pair) -> ConnectionState:
    """JOINED if both ends have joined, otherwise the state of one that has not."""
    for end in pair:
        if end and end.state != ConnectionState.JOINED:
            return ConnectionState(end.state)
    return ConnectionState.JOINED


def reasons_of(pair: Pair, reasons: Sequence[str]) -> tuple[str, str]:
    """Why what goes to the server, and to the client, goes by TCP."""
    client, server = (
        reasons[end.marked or end.reason] if end and (end.marked or end.reason) else '' for end in pair
    )
    if state_of(pair) is not ConnectionState.JOINED:
        return client or server, server or client
    return client, server


def path_of(state: ConnectionState, to_server: str, to_client: str) -> str:
    """Which way the last messages went."""
    if state is not ConnectionState.JOINED or (to_server and to_client):
        return 'tcp'
    return 'mixed' if to_server or to_client else 'redirect'


# Among many connections few addresses and programs differ.
_address = lru_cache(maxsize=4096)(unpack_address)


@lru_cache(maxsize=4096)
def program_of(padded: bytes) -> str:
    """The name of a program that is padded with zeros."""
    return printable(padded.split(b'\0', 1)[0].decode(errors='replace'))
