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
    BROKEN = 7
    PROGRAM = 8


class ConnectionState(IntEnum):
    CONNECTING = 0
    CANDIDATE = 1
    JOINED = 2
    LEFT = 3


@dataclass(frozen=True)
class Counter:
    """What the BPF programs count. kind: `total`, `connection` or `message`. sentence: what users read."""

    name: str
    kind: str
    sentence: str


@dataclass(frozen=True)
class Flow:
    """Addresses and ports of a connection as one end sees it. netns: the network namespace's cookie.

    Addresses are text, and IPv4 is not written as ::ffff:a.b.c.d.
    """

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
    """What happened to one end, or, with the kind CONNECTION, what a walk lists of it.

    time_ns: when, in CLOCK_MONOTONIC; for a CONNECTION when it began. bytes and messages: what this end sent.
    reason, marked: indices of counters, 0 for none; marked is why the end must leave the map. pid, program: of the
    task that the kernel side names, '' where it names none.
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
    """An address in the 16 bytes that the BPF programs use, IPv4 as ::ffff:a.b.c.d. Raises ValueError."""
    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b'\xff\xff' + address.packed


def unpack_address(packed: bytes) -> str:
    """The opposite of `pack_address`."""
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)
