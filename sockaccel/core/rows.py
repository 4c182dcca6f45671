# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection as users read it: a dictionary with the keys that org.sockaccel1(5) describes."""

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeVar

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


# How many addresses, programs, cgroups and targets are remembered, of each.
_REMEMBERED = 4096
K = TypeVar('K', bound=Hashable)


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


class _Words(dict[K, Any]):
    """What `make` makes of a key, remembered: among many connections few addresses and programs differ."""

    def __init__(self, make: Callable[[K], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: K) -> Any:
        if len(self) >= _REMEMBERED:
            self.clear()
        made = self[key] = self._make(key)
        return made


def _as_it_is(word: str | bool) -> Any:
    return word


class Wording:
    """What stands in rows for the numbers of their ends.

    write: what becomes of a word or a truth, such as its JSON. It is called for few of them, and not for each row.
    """

    def __init__(self, names: Names, write: Callable[[str | bool], Any] = _as_it_is) -> None:
        self._names = names
        self._write = write
        self.nothing = write('')
        self.reasons = [self.nothing, *map(write, names.reasons[1:])]
        self.states = {state: write(word) for state, word in STATES.items()}
        self.paths = {path: write(path) for path in words.PATHS}
        self.truths = {0: write(False), _ADOPTED: write(True), _AWAITS_HEARTBEAT: write(True)}
        self.targets = _Words[int](lambda slot: write(names.target(slot)))
        self.cgroups = _Words[int](lambda number: write(names.cgroup(number)))
        self.addresses = _Words[bytes](lambda packed: write(unpack_address(packed)))
        self.programs = _Words[bytes](lambda padded: write(program_of(padded)))

    def origin(self, client: End | None) -> tuple[Any, int]:
        """Address and port."""
        address, port = self._names.origin(client.cookie) if client else NOWHERE
        return (self._write(address) if address else self.nothing), port


def row(pair: Pair, wording: Wording, now_ns: int) -> Row:
    """now_ns: the time in CLOCK_MONOTONIC.

    A reason is why the last message that the end sent went by TCP, '' if it was redirected or there was none.
    path: one of words.PATHS. peer_address, peer_port: where the end believes its peer to be, which is not so where
    addresses are translated on the way. origin_address, origin_port: where the client wanted to go, if it was led
    to a proxy instead. netns_cookie: that of the client, if it is known. state: "joined" if both
    ends have joined, otherwise that of one that has not.
    """
    return dict(zip(KEYS, values(pair, wording, now_ns), strict=True))


def values(pair: Pair, wording: Wording, now_ns: int) -> tuple[Any, ...]:
    """The values of a row, in the order of KEYS. Each is an int, or what `wording` writes."""
    client, server = pair
    one = client or server
    assert one
    state = state_of(pair)
    to_server, to_client = _causes(pair, state)
    flags = (client.flags if client else 0) | (server.flags if server else 0)
    reasons, truths = wording.reasons, wording.truths
    return (
        wording.targets[one.slot], wording.paths[path_of(state, to_server, to_client)], wording.states[state],
        max(0, now_ns - one.time_ns), one.netns, truths[flags & _ADOPTED], truths[flags & _AWAITS_HEARTBEAT],
        *wording.origin(client), *_values(client, server, reasons[to_server], wording),
        *_values(server, client, reasons[to_client], wording),
    )  # fmt: skip


def _values(end: End | None, peer: End | None, reason: Any, wording: Wording) -> tuple[Any, ...]:
    """In the order of _OF_END. Where the end is not known its peer knows where it is."""
    addresses = wording.addresses
    if end is None:
        assert peer
        nothing = wording.nothing
        return (
            addresses[peer.remote], peer.remote_port, addresses[peer.local], peer.local_port, 0, nothing, nothing,
            reason, nothing, 0, 0, 0, 0, 0,
        )  # fmt: skip
    return (
        addresses[end.local], end.local_port, addresses[end.remote], end.remote_port, end.netns,
        wording.states[end.state], wording.cgroups[end.cgroup], reason, wording.programs[end.program], end.pid,
        end.redirected_bytes, end.redirected_messages, end.tcp_bytes, end.tcp_messages,
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
    to_server, to_client = _causes(pair, state_of(pair))
    return (reasons[to_server] if to_server else ''), (reasons[to_client] if to_client else '')


def _causes(pair: Pair, state: int) -> tuple[int, int]:
    """The same as indices of counters, 0 for none."""
    client, server = pair
    to_server = (client.marked or client.reason) if client else 0
    to_client = (server.marked or server.reason) if server else 0
    if state != _JOINED:
        return to_server or to_client, to_client or to_server
    return to_server, to_client


def path_of(state: int, to_server: str | int, to_client: str | int) -> str:
    """Which way the last messages went. state: of ConnectionState. The others: reasons, or their indices."""
    if state != _JOINED or (to_server and to_client):
        return 'tcp'
    return 'mixed' if to_server or to_client else 'redirect'


@lru_cache(maxsize=4096)
def program_of(padded: bytes) -> str:
    """The name of a program that is padded with zeros."""
    return printable(padded.split(b'\0', 1)[0].decode(errors='replace'))
