# SPDX-License-Identifier: GPL-2.0-or-later
"""What the BPF programs and the daemon share: the Python side of bpf/types.h and bpf/counters.h."""

import ipaddress
import re
import struct
import sys
import sysconfig
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import NamedTuple, Self

MAX_TARGETS = 128
MAX_CGROUPS = 1024
MAX_LISTENERS = 16384
MAX_SERVED = 1024
MAX_MET = 16384
MAX_CGROUP_DEPTH = 32
MAX_RULES = 64
# Ends that are listed in one go; at 100,000 connections more gain nothing.
MAX_LISTED = 4096
# Pages of the ring buffer; a power of two.
EVENT_PAGES = 64

FLOW = struct.Struct('=Q16s16sHHI')
LISTENER_KEY = struct.Struct('=Q16sII')
TARGET = struct.Struct('=II')
SETTINGS = struct.Struct('=IIQQQII')
RULE = struct.Struct('=IIII16s16s')
EVENT = struct.Struct(f'={FLOW.size}s8Q8I16s')


class TargetFlag(IntFlag):
    ON = 1
    BLOCKING_READERS = 2


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


class Urgency(IntEnum):
    NONE = 0
    LATER = 1
    NOW = 2


class Walk(IntEnum):
    LIST = 0
    JUDGE = 1
    EVICT = 2


@dataclass(frozen=True)
class Counter:
    """One line of bpf/counters.h. kind: `total`, `connection` or `message`."""

    name: str
    kind: str
    sentence: str


def source_directory() -> Path:
    """Where the BPF sources are: beside the package in a checkout, under share/ when installed."""
    checkout = Path(__file__).resolve().parent.parent / 'bpf'
    if checkout.is_dir():
        return checkout
    for prefix in (sysconfig.get_path('data'), sys.prefix, '/usr'):
        installed = Path(prefix) / 'share' / 'sockaccel' / 'bpf'
        if installed.is_dir():
            return installed
    raise FileNotFoundError('the BPF sources of sockaccel are not installed: reinstall the package')


def counters(source: Path) -> list[Counter]:
    """The counters in their order in `struct counters`. source: the BPF source directory."""
    lines = re.findall(r'X\((\w+), (\w+), "([^"]*)"\)', (source / 'counters.h').read_text())
    return [Counter(name.lower(), kind.lower(), sentence) for name, kind, sentence in lines]


def pack_address(text: str) -> bytes:
    """An address as `struct flow` has it: 16 bytes, IPv4 as ::ffff:a.b.c.d. Raises ValueError."""
    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b'\xff\xff' + address.packed


def _address(packed: bytes) -> str:
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


@dataclass(frozen=True)
class Flow:
    """A connection as one end sees it; addresses as text, IPv4 not mapped."""

    netns: int
    local: str
    remote: str
    local_port: int
    remote_port: int

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        netns, local, remote, local_port, remote_port, _pad = FLOW.unpack(data)
        return cls(netns, _address(local), _address(remote), local_port, remote_port)

    def __str__(self) -> str:
        return f'{endpoint(self.local, self.local_port)} -> {endpoint(self.remote, self.remote_port)}'


def endpoint(address: str, port: int) -> str:
    return f'[{address}]:{port}' if ':' in address else f'{address}:{port}'


class Raw(NamedTuple):
    """`struct event` as it comes, for those who look at a hundred thousand of them."""

    flow: bytes
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
    program: bytes


def _printable(text: str) -> str:
    """A program chooses its own name, and terminals obey what is in it."""
    return ''.join(letter if letter.isprintable() else '\ufffd' for letter in text)


@dataclass(frozen=True)
class Event:
    """`struct event`: what happened to one end of a connection, or what the walk over all says of it.

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

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls.of(Raw._make(EVENT.unpack(data)))

    @classmethod
    def of(cls, raw: Raw) -> Self:
        values = raw._asdict() | {
            'flow': Flow.unpack(raw.flow),
            'kind': EventKind(raw.kind),
            'active': bool(raw.active),
            'state': ConnectionState(raw.state),
            'program': _printable(raw.program.split(b'\0', 1)[0].decode(errors='replace')),
        }
        return cls(**values)
