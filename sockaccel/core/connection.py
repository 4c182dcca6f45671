# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection as the core sees it: its two ends, what happens to each, and why a message goes by TCP."""

import ipaddress
from dataclasses import dataclass
from enum import IntEnum


class EventKind(IntEnum):
    JOINED = 0
    REFUSED = 1
    FALLBACK = 2
    CLOSED = 3
    EVICTED = 4
    SWEEP_WANTED = 5
    CONNECTION = 6


class ConnectionState(IntEnum):
    CONNECTING = 0
    CANDIDATE = 1
    JOINED = 2
    LEFT = 3


@dataclass(frozen=True)
class Counter:
    """What the kernel side counts. kind: `total`, `connection` or `message`."""

    name: str
    kind: str
    sentence: str


@dataclass(frozen=True)
class Flow:
    """A connection as one end sees it; addresses as text, IPv4 not mapped."""

    netns: int
    local: str
    remote: str
    local_port: int
    remote_port: int

    def __str__(self) -> str:
        return f'{endpoint(self.local, self.local_port)} -> {endpoint(self.remote, self.remote_port)}'


def endpoint(address: str, port: int) -> str:
    return f'[{address}]:{port}' if ':' in address else f'{address}:{port}'


@dataclass(frozen=True)
class Event:
    """What happened to one end of a connection, or what the walk over all says of it.

    time_ns is CLOCK_MONOTONIC, for a CONNECTION when it began; bytes and messages are those that this end sent;
    program is the name of the task that the kernel named, '' where it names none; marked is the counter index of
    the reason why the end is leaving, 0 if it stays.
    """

    flow: Flow
    time_ns: int
    cookie: int
    peer_cookie: int
    cgroup: int
    redirected_bytes: int
    redirected_messages: int
    tcp_bytes: int
    tcp_messages: int
    kind: EventKind
    reason: int
    slot: int
    generation: int
    active: bool
    pid: int
    marked: int
    state: ConnectionState
    program: str


def pack_address(text: str) -> bytes:
    """An address as the kernel side has it: 16 bytes, IPv4 as ::ffff:a.b.c.d. Raises ValueError."""
    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b'\xff\xff' + address.packed


def unpack_address(packed: bytes) -> str:
    """The opposite of `pack_address`."""
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)
