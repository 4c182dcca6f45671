# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the ends that a walk lists: `struct event` after `struct event`."""

import socket
import struct
from collections.abc import Callable, Iterator

from sockaccel.core.connection import Event
from sockaccel.core.protocols import RawEnd
from sockaccel.kernel.abi import EVENT, FLOW, EventRecord
from sockaccel.kernel.records import event_of

# asm-generic/socket.h
_SO_NETNS_COOKIE = 71


def own_netns() -> int:
    """The cookie of the network namespace in which this process is, as each `struct flow` has it. OSError."""
    with socket.socket(socket.AF_UNIX) as sock:
        return int(struct.unpack('=Q', sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])


class Ends:
    """Implements sockaccel.core.protocols.Ends. read: sockaccel.kernel.live.Kernel.read_connections."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self.read = read

    def rows(self, packed: bytes) -> Iterator[EventRecord]:
        return map(EventRecord._make, EVENT.iter_unpack(packed))

    def pack(self, end: RawEnd) -> bytes:
        return EVENT.pack(*end)

    def unpack(self, packed: bytes) -> EventRecord:
        return EventRecord._make(EVENT.unpack(packed))

    def event(self, end: RawEnd) -> Event:
        return event_of(EventRecord._make(end))

    def endpoints(self, flow: bytes) -> tuple[bytes, int, bytes, int]:
        _netns, local, remote, local_port, remote_port, _pad = FLOW.unpack(flow)
        return local, local_port, remote, remote_port

    def netns(self, flow: bytes) -> int:
        return int(FLOW.unpack(flow)[0])

    def mirrored(self, flow: bytes) -> bytes:
        netns, local, remote, local_port, remote_port, pad = FLOW.unpack(flow)
        return FLOW.pack(netns, remote, local, remote_port, local_port, pad)
