# SPDX-License-Identifier: GPL-2.0-or-later
"""What the BPF programs and the daemon share: the Python side of bpf/types.h and bpf/counters.h."""

import re
import struct
import sys
import sysconfig
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import NamedTuple

from sockaccel.core.connection import ConnectionState, Counter, Event, EventKind, Flow, unpack_address

MAX_CGROUPS = 1024
MAX_LISTENERS = 16384
MAX_SERVED = 1024
MAX_MET = 16384
MAX_CGROUP_DEPTH = 32
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
    """`flags` of `struct target`."""

    ON = 1
    BLOCKING_READERS = 2


class Walk(IntEnum):
    LIST = 0
    JUDGE = 1
    EVICT = 2


def source_directory() -> Path:
    """Where the BPF sources are: beside the package in a checkout, under share/ when installed."""
    checkout = Path(__file__).resolve().parents[2] / 'bpf'
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


def _printable(text: str) -> str:
    """A program chooses its own name, and terminals obey what is in it."""
    return ''.join(letter if letter.isprintable() else '\ufffd' for letter in text)


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


def flow_of(data: bytes) -> Flow:
    """`struct flow`."""
    netns, local, remote, local_port, remote_port, _pad = FLOW.unpack(data)
    return Flow(netns, unpack_address(local), unpack_address(remote), local_port, remote_port)


def event_from(data: bytes) -> Event:
    """`struct event`."""
    return event_of(Raw._make(EVENT.unpack(data)))


def event_of(raw: Raw) -> Event:
    values = raw._asdict() | {
        'flow': flow_of(raw.flow),
        'kind': EventKind(raw.kind),
        'active': bool(raw.active),
        'state': ConnectionState(raw.state),
        'program': _printable(raw.program.split(b'\0', 1)[0].decode(errors='replace')),
    }
    return Event(**values)
