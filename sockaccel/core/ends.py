# SPDX-License-Identifier: GPL-2.0-or-later
"""The ends of connections as a walk reads them, and which two of them make a connection.

There can be 200,000. What is done with each of them is little, and what is done with a whole part is done by C.
"""

import itertools
import operator
import os
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from enum import IntFlag
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple

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


# Client and server. One of them is None where it is unknown, or gone already.
Pair = tuple[End | None, End | None]
# Without End._make(), a function of Python that would be called for each end.
_end_of = partial(tuple[Any, ...].__new__, End)
# What says whose a connection is.
_OF_PROGRAMS = ('cgroup', 'pid', 'program')
# What it sent, each a number of 8 bytes.
_OF_SIZE = ('redirected_bytes', 'tcp_bytes')
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
        self._row = struct.Struct(f'{size}s')
        self._rows_of_pair = struct.Struct(f'{2 * size}s')
        names = [name for name, _code in self.fields if name in End._fields]
        self._places = [names.index(name) for name in End._fields]
        self._in_order = self._places == sorted(self._places)

    def ends(self, part: bytes) -> Iterator[End]:
        """Each end of a part. Raises struct.error where it is not a multiple of `size`."""
        rows = self._struct.iter_unpack(part)
        if not self._in_order:
            rows = (tuple([row[place] for place in self._places]) for row in rows)
        return map(_end_of, rows)

    def rows(self, part: bytes) -> Iterator[tuple[bytes]]:
        """Each end of a part as it is packed, alone in a tuple."""
        return self._row.iter_unpack(part)

    def pairs(self, packed: bytes) -> list[Pair]:
        """Connections. Each is packed as its client and its server, with zeros for one that is unknown."""
        ends = self.ends(packed)
        # No socket has the cookie 0.
        return [
            (client if client.cookie else None, server if server.cookie else None)
            for client, server in zip(ends, ends, strict=True)
        ]

    def packed_pairs(self, packed: bytes) -> Iterator[tuple[bytes]]:
        """Each of the same as it is packed, alone in a tuple."""
        return self._rows_of_pair.iter_unpack(packed)

    def moved(self, packed: bytes) -> Iterator[int]:
        """Bytes that both ends of each of the same have sent."""
        sent = list(self.sent(packed))
        return map(operator.add, sent[::2], sent[1::2])

    def sent(self, part: bytes) -> Iterator[int]:
        """Bytes that each end of a part has sent."""
        redirected, tcp = (self.column(part, name) for name in _OF_SIZE)
        return map(operator.add, redirected, tcp)

    def numbers(self, part: bytes) -> list[int]:
        """A number for the connection of each end: the same for both ends, and for no other connection.

        It is made of the sum and the product of the two sequence numbers, in which their order does not matter. An
        end that was never established has none and is alone: the number is its cookie, below zero.
        """
        sent, received = (self.column(part, name) for name in _OF_KEY)
        sums = map(operator.lshift, map(operator.add, sent, received), itertools.repeat(64))
        numbers = list(map(operator.or_, sums, map(operator.mul, sent, received)))
        if 0 in numbers:
            cookies = self.column(part, 'cookie')
            numbers = [number or -cookie for number, cookie in zip(numbers, cookies, strict=True)]
        return numbers

    def column(self, part: bytes | bytearray, name: str) -> list[int]:
        """A field of each end, which must be a number of 4 or 8 bytes and aligned. Raises InvalidArgument."""
        offset, code = self._offsets[name]
        width = _width(code)
        if offset % width or self.size % width:
            raise InvalidArgument(f'ends whose field "{name}" is not aligned cannot be read')
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


class _Slots:
    """Rows of one size in one piece of memory, which the kernel gets back as a whole."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rows = bytearray()
        self._free: list[int] = []

    def put(self, row: bytes) -> int:
        """Returns the number of its slot."""
        if not self._free:
            self._rows += row
            return len(self._rows) // self._size - 1
        slot = self._free.pop()
        self._rows[slot * self._size : (slot + 1) * self._size] = row
        return slot

    def take(self, slot: int) -> bytearray:
        """What is in a slot, which is free then."""
        self._free.append(slot)
        return self._rows[slot * self._size : (slot + 1) * self._size]


class Pairs:
    """Puts ends together as they come. One that the walk shows again is left out (see `Kernel.parts`).

    There are numbers for each connection, and no other object. Where others allocate among many of them meanwhile,
    each thing that they keep holds back a megabyte (the arenas of Objects/obmalloc.c).
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._nobody = bytes(layout.size)
        self._rows = _Slots(layout.size)
        # The slots of servers and of clients that wait, by what the client sends first and what it receives first.
        self._waiting: tuple[dict[int, int], dict[int, int]] = ({}, {})
        # Cookies.
        self._seen: set[int] = set()

    def add(self, part: bytes) -> list[Pair]:
        """The connections that are complete now, and those whose other end cannot be found."""
        return self._layout.pairs(self.packed(part))

    def packed(self, part: bytes) -> bytes:
        """The same, packed as `Layout.pairs` has them."""
        layout, nobody, put, take = self._layout, self._nobody, self._rows.put, self._rows.take
        servers, clients = self._waiting
        part = self._unseen(part)
        columns = [layout.column(part, name) for name in ('sent', 'received', 'active')]
        found: list[bytes | bytearray] = []
        for sent, received, active, (end,) in zip(*columns, layout.rows(part), strict=True):
            if active:
                key, ours, theirs = sent << 32 | received, clients, servers
            else:
                key, ours, theirs = received << 32 | sent, servers, clients
            slot = theirs.pop(key, None)
            if slot is None and key and key not in ours:
                ours[key] = put(end)
                continue
            # Without a peer: it was never established, or another one claims to be the same end.
            peer = nobody if slot is None else take(slot)
            found += (end, peer) if active else (peer, end)
        return b''.join(found)

    def _unseen(self, part: bytes) -> bytes:
        """The ends of a part that did not come before."""
        cookies = self._layout.column(part, 'cookie')
        different = set(cookies)
        if len(different) == len(cookies) and self._seen.isdisjoint(different):
            self._seen |= different
            return part
        unseen: list[bytes] = []
        for cookie, (end,) in zip(cookies, self._layout.rows(part), strict=True):
            if cookie not in self._seen:
                self._seen.add(cookie)
                unseen.append(end)
        return b''.join(unseen)

    def rest(self) -> list[Pair]:
        """Afterwards: the connections of which one end was found."""
        return self._layout.pairs(self.packed_rest())

    def packed_rest(self) -> bytes:
        """The same, packed as `Layout.pairs` has them."""
        found: list[bytes | bytearray] = []
        for active, waiting in enumerate(self._waiting):
            for end in map(self._rows.take, waiting.values()):
                found += (end, self._nobody) if active else (self._nobody, end)
            waiting.clear()
        return b''.join(found)


def moved(pair: Pair) -> int:
    """Bytes that both ends sent."""
    client, server = pair
    return (client.moved if client else 0) + (server.moved if server else 0)
