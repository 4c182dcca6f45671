# SPDX-License-Identifier: GPL-2.0-or-later
"""The ends of connections as a walk reads them, and which two of them make a connection.

There can be 200,000. What is done with each of them is little, and what is done with a whole part is done by C.
"""

import os
import struct
from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from enum import IntFlag
from hashlib import blake2b
from typing import NamedTuple

from sockaccel.errors import InvalidArgument


class EndFlag(IntFlag):
    """ADOPTED: the connection is older than the enabling of its target.

    AWAITS_HEARTBEAT: what the end sends goes by TCP until a message has arrived that TCP carries for a heartbeat.
    """

    ADOPTED = 1
    AWAITS_HEARTBEAT = 2


class End(NamedTuple):
    """One end. Addresses are as `pack_address` has them; reason and marked are indices of counters, 0 for none.

    sent, received: the key of an established end (`struct pair_key`), which its peer has the other way round.
    Bytes and messages are those that this end sent. time_ns: when it began, in CLOCK_MONOTONIC. program: padded
    with zeros. flags: of EndFlag. What a viewer may not know is 0.
    """

    netns: int
    local: bytes
    remote: bytes
    local_port: int
    remote_port: int
    sent: int
    received: int
    time_ns: int
    cookie: int
    cgroup: int
    redirected_bytes: int
    redirected_messages: int
    tcp_bytes: int
    tcp_messages: int
    reason: int
    slot: int
    active: int
    pid: int
    marked: int
    state: int
    flags: int
    program: bytes

    @property
    def moved(self) -> int:
        """Bytes that this end sent, one way or the other."""
        return self.redirected_bytes + self.tcp_bytes


# Packs an End.
END = struct.Struct('=Q16s16s2H2I7Q7I16s')
# Client and server. One of them is None where it is unknown, or gone already.
Pair = tuple[End | None, End | None]
# What says whose a connection is.
_OF_PROGRAMS = ('cgroup', 'pid', 'program')
# Sequence numbers: who knows those of a connection can try to slip packets into it.
_OF_KEY = ('sent', 'received')
# Of this run of the daemon.
_SECRET = os.urandom(blake2b.MAX_KEY_SIZE)


class Layout:
    """How ends are packed one after another, without gaps and in the byte order of this machine.

    fields: the name and the code of each field, as Python's struct has it. Those that End does not know are left
    out. Raises InvalidArgument where one is missing that End needs.
    """

    def __init__(self, fields: Iterable[Sequence[str]]) -> None:
        self.fields = [(name, code) for name, code in fields]
        self._offsets: dict[str, tuple[int, str]] = {}
        size = 0
        for name, code in self.fields:
            self._offsets[name] = (size, code)
            size += _width(code)
        self.size = size
        if missing := set(End._fields) - self._offsets.keys():
            raise InvalidArgument(f'ends without the field "{min(missing)}" cannot be read')
        unpacked = ''.join(code if name in End._fields else f'{_width(code)}x' for name, code in self.fields)
        self._struct = struct.Struct(f'={unpacked}')
        names = [name for name, _code in self.fields if name in End._fields]
        self._places = [names.index(name) for name in End._fields]
        self._in_order = self._places == sorted(self._places)

    def ends(self, part: bytes) -> Iterator[End]:
        """Each end of a part. Raises struct.error where it is not a multiple of `size`."""
        rows = self._struct.iter_unpack(part)
        if self._in_order:
            return map(End._make, rows)
        return (End._make([row[place] for place in self._places]) for row in rows)

    def column(self, part: bytes | bytearray, name: str) -> list[int]:
        """A field of each end, which must be a number of 4 or 8 bytes."""
        offset, code = self._offsets[name]
        width = _width(code)
        numbers = memoryview(part).cast('Q') if width == 8 else memoryview(part).cast('I')
        return numbers[offset // width :: self.size // width].tolist()

    def restricted(self, part: bytes, netns: int) -> bytes:
        """The ends of one network namespace, with zeros for what says whose they are. netns: its cookie.

        Instead of sequence numbers there are others, by which two ends meet as well.
        """
        size = self.size
        found = self.column(part, 'netns')
        seen = bytearray().join(
            part[at * size : (at + 1) * size] for at, each in enumerate(found) if each == netns
        )
        zeros = bytes(len(seen) // size)
        for name in _OF_PROGRAMS:
            offset, code = self._offsets[name]
            for byte in range(offset, offset + _width(code)):
                seen[byte::size] = zeros
        for name in _OF_KEY:
            offset, _code = self._offsets[name]
            veiled = array('I', map(_veiled, self.column(seen, name)))
            memoryview(seen).cast('I')[offset // 4 :: size // 4] = memoryview(veiled)
        return bytes(seen)


def _veiled(number: int) -> int:
    """The same for the same number, from which nobody can tell it. 0 says that there is none."""
    if not number:
        return 0
    digest = blake2b(number.to_bytes(4), digest_size=4, key=_SECRET).digest()
    return int.from_bytes(digest) or 1


def _width(code: str) -> int:
    """Bytes of a field."""
    return struct.calcsize(f'={code}')


def key_of(end: End) -> Hashable:
    """What the two ends of one connection have in common, and no end of another one has."""
    sent, received = end.sent, end.received
    if not sent and not received:
        return (end.cookie,)
    return (sent, received) if sent < received else (received, sent)


class Pairs:
    """Puts ends together as they come. One that the walk shows again is left out (see `Kernel.parts`)."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, End] = {}
        self._seen: set[int] = set()

    def add(self, ends: Iterable[End]) -> Iterator[Pair]:
        """The connections that are complete now."""
        waiting, seen = self._waiting, self._seen
        for end in ends:
            if end.cookie in seen:
                continue
            seen.add(end.cookie)
            key = key_of(end)
            other = waiting.get(key)
            if other is None:
                waiting[key] = end
            elif other.active == end.active:
                # Both claim to be the same end.
                yield _alone(end)
            else:
                del waiting[key]
                yield (other, end) if other.active else (end, other)

    def rest(self) -> Iterator[Pair]:
        """Afterwards: the connections of which one end was found."""
        yield from map(_alone, self._waiting.values())
        self._waiting.clear()


def _alone(end: End) -> Pair:
    return (end, None) if end.active else (None, end)


def moved(pair: Pair) -> int:
    """Bytes that both ends sent."""
    client, server = pair
    return (client.moved if client else 0) + (server.moved if server else 0)
