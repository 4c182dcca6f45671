# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection as users read it: a dictionary with the keys that org.sockaccel1(5) describes."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

from sockaccel.core import words
from sockaccel.core.connection import ConnectionState, unpack_address
from sockaccel.core.ends import End, EndFlag, Pair
from sockaccel.core.origins import Origin
from sockaccel.core.text import printable

Row = dict[str, Any]
NOWHERE: Origin = ('', 0)

# Those of one end, behind the prefix "client_" or "server_", in their order.
_OF_END = (
    'address', 'port', 'peer_address', 'peer_port', 'netns_cookie', 'state', 'cgroup', 'reason', 'program', 'pid',
    'redirected_bytes', 'redirected_messages', 'tcp_bytes', 'tcp_messages',
)  # fmt: skip
KEYS = (
    'target', 'path', 'state', 'age_ns', 'netns_cookie', 'adopted', 'waiting_for_heartbeat', 'origin_address',
    'origin_port',
    *(f'client_{key}' for key in _OF_END), *(f'server_{key}' for key in _OF_END),
)  # fmt: skip
# Plain numbers: what Python does for a member of an enum takes long where there are 100,000 connections.
_JOINED = int(ConnectionState.JOINED)
STATES = {int(state): word for state, word in words.CONNECTION_STATES.items()}
_ADOPTED, _AWAITS_HEARTBEAT = int(EndFlag.ADOPTED), int(EndFlag.AWAITS_HEARTBEAT)


class Names(Protocol):
    """What the numbers of an end stand for."""

    @property
    def reasons(self) -> Sequence[str]:
        """The names of the counters, by index."""

    def target(self, slot: int) -> str:
        """The name of the target that has a slot, or had it last; '' for none."""

    def cgroup(self, number: int) -> str:
        """A cgroup's path, '' if it is gone or may not be known."""

    def origin(self, cookie: int) -> Origin:
        """Where a socket with a cookie wanted to go that was led to a proxy, NOWHERE for another one."""


def row(pair: Pair, names: Names, now_ns: int) -> Row:
    """now_ns: the time in CLOCK_MONOTONIC.

    A reason is why the last message that the end sent went by TCP, '' if it was redirected or there was none.
    path: one of words.PATHS. peer_address, peer_port: where the end believes its peer to be, which is not so where
    addresses are translated on the way. origin_address, origin_port: where the client wanted to go, if it was led
    to a proxy instead. netns_cookie: that of the client, if it is known. state: "joined" if both
    ends have joined, otherwise that of one that has not.
    """
    return dict(zip(KEYS, values(pair, names, now_ns), strict=True))


def values(pair: Pair, names: Names, now_ns: int) -> tuple[Any, ...]:
    """The values of a row, in the order of KEYS. Each is a string, an int or a bool."""
    client, server = pair
    one = client or server
    assert one
    state = state_of(pair)
    to_server, to_client = reasons_of(pair, names.reasons)
    flags = (client.flags if client else 0) | (server.flags if server else 0)
    return (
        names.target(one.slot), path_of(state, to_server, to_client), STATES[state],
        max(0, now_ns - one.time_ns), one.netns, bool(flags & _ADOPTED), bool(flags & _AWAITS_HEARTBEAT),
        *(names.origin(client.cookie) if client else NOWHERE),
        *_values(client, server, to_server, names), *_values(server, client, to_client, names),
    )  # fmt: skip


def _values(end: End | None, peer: End | None, reason: str, names: Names) -> tuple[Any, ...]:
    """In the order of _OF_END. Where the end is not known its peer knows where it is."""
    if end is None:
        assert peer
        return (
            _address(peer.remote), peer.remote_port, _address(peer.local), peer.local_port, 0, '', '', reason, '',
            0, 0, 0, 0, 0,
        )  # fmt: skip
    return (
        _address(end.local), end.local_port, _address(end.remote), end.remote_port, end.netns, STATES[end.state],
        names.cgroup(end.cgroup), reason, program_of(end.program), end.pid, end.redirected_bytes,
        end.redirected_messages, end.tcp_bytes, end.tcp_messages,
    )  # fmt: skip


def target_of(pair: Pair, names: Names) -> str:
    """The name of the target that covers the connection."""
    client, server = pair
    one = client or server
    return names.target(one.slot) if one else ''


def state_of(pair: Pair) -> int:
    """Of ConnectionState: JOINED if both ends have joined, otherwise the state of one that has not."""
    for end in pair:
        if end and end.state != _JOINED:
            return end.state
    return _JOINED


def reasons_of(pair: Pair, reasons: Sequence[str]) -> tuple[str, str]:
    """Why what goes to the server, and to the client, goes by TCP."""
    client, server = pair
    to_server = (client.marked or client.reason) if client else 0
    to_client = (server.marked or server.reason) if server else 0
    if state_of(pair) != _JOINED:
        to_server, to_client = to_server or to_client, to_client or to_server
    return (reasons[to_server] if to_server else ''), (reasons[to_client] if to_client else '')


def path_of(state: int, to_server: str, to_client: str) -> str:
    """Which way the last messages went. state: of ConnectionState."""
    if state != _JOINED or (to_server and to_client):
        return 'tcp'
    return 'mixed' if to_server or to_client else 'redirect'


# Among many connections few addresses and programs differ.
_address = lru_cache(maxsize=4096)(unpack_address)


@lru_cache(maxsize=4096)
def program_of(padded: bytes) -> str:
    """The name of a program that is padded with zeros."""
    return printable(padded.split(b'\0', 1)[0].decode(errors='replace'))
