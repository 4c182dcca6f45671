# SPDX-License-Identifier: GPL-2.0-or-later
"""The ends of connections as a walk reads them, and which two of them make a connection.

There can be 200,000. What is done with each of them is little, and what is done with a whole part is done by C.
"""

import os
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
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


# Client and server. One of them is None where it is unknown, or gone already.
Pair = tuple[End | None, End | None]
# The same, each end as a Layout has it.
PackedPair = tuple[bytes | None, bytes | None]
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
        self._cookie = struct.Struct(f'={self._offsets["cookie"][0]}xQ')
        first, second = sorted(self._offsets[name][0] for name in _OF_SIZE)
        self._sent = struct.Struct(f'={first}xQ{second - first - 8}xQ')
        names = [name for name, _code in self.fields if name in End._fields]
        self._places = [names.index(name) for name in End._fields]
        self._in_order = self._places == sorted(self._places)

    def ends(self, part: bytes) -> Iterator[End]:
        """Each end of a part. Raises struct.error where it is not a multiple of `size`."""
        rows = self._struct.iter_unpack(part)
        if self._in_order:
            return map(End._make, rows)
        return (End._make([row[place] for place in self._places]) for row in rows)

    def pair(self, packed: PackedPair) -> Pair:
        """A connection, of its ends as they are packed."""
        client, server = packed
        return (self._end(client) if client else None), (self._end(server) if server else None)

    def _end(self, packed: bytes) -> End:
        values = self._struct.unpack(packed)
        return End._make(values if self._in_order else [values[place] for place in self._places])

    def cookie(self, packed: bytes) -> int:
        """Of an end that is packed."""
        return int(self._cookie.unpack_from(packed)[0])

    def moved(self, packed: PackedPair) -> int:
        """Bytes that both ends sent, of a connection whose ends are packed."""
        return sum(sum(self._sent.unpack_from(end)) for end in packed if end)

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

    def get(self, slot: int) -> bytes:
        return bytes(self._rows[slot * self._size : (slot + 1) * self._size])

    def take(self, slot: int) -> bytes:
        """The same for the last time."""
        self._free.append(slot)
        return self.get(slot)


class Pairs:
    """Puts ends together as they come. One that the walk shows again is left out (see `Kernel.parts`).

    There is a number for each connection, and no other object. Where others allocate among many of them meanwhile,
    each thing that they keep holds back a megabyte (the arenas of Objects/obmalloc.c).
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._waiting = _Slots(layout.size)
        # By what the client sends first and what it receives first. For an end that waits: twice its slot, and 1
        # more for a client. For two that have met: both cookies side by side, as a negative number.
        self._known: dict[int, int] = {}
        # Cookies of those that were given out without a peer.
        self._alone: set[int] = set()

    def add(self, part: bytes) -> Iterator[Pair]:
        """The connections that are complete now, and those whose other end cannot be found."""
        return map(self._layout.pair, self.packed(part))

    def packed(self, part: bytes) -> Iterator[PackedPair]:
        """The same, as they are in the part."""
        known, waiting, layout = self._known, self._waiting, self._layout
        columns = [layout.column(part, name) for name in ('cookie', 'sent', 'received', 'active')]
        for at, (cookie, sent, received, active) in enumerate(zip(*columns, strict=True)):
            end = part[at * layout.size : (at + 1) * layout.size]
            key = sent << 32 | received if active else received << 32 | sent
            found = known.get(key)
            if found is None and key:
                known[key] = waiting.put(end) << 1 | bool(active)
            elif found is not None and found >= 0 and found & 1 != bool(active):
                peer = waiting.take(found >> 1)
                known[key] = -(cookie << 64 | layout.cookie(peer))
                yield (end, peer) if active else (peer, end)
            elif not self._has_seen(cookie, found):
                # It was never established, or another one claims to be the same end.
                self._alone.add(cookie)
                yield (end, None) if active else (None, end)

    def _has_seen(self, cookie: int, found: int | None) -> bool:
        """found: what is known by the key of the end with this cookie."""
        if cookie in self._alone:
            return True
        if found is None:
            return False
        if found >= 0:
            return cookie == self._layout.cookie(self._waiting.get(found >> 1))
        return cookie in divmod(-found, 1 << 64)

    def rest(self) -> Iterator[Pair]:
        """Afterwards: the connections of which one end was found."""
        return map(self._layout.pair, self.packed_rest())

    def packed_rest(self) -> Iterator[PackedPair]:
        """The same, as they were in their parts."""
        known, self._known = self._known, {}
        for found in known.values():
            if found >= 0:
                end = self._waiting.take(found >> 1)
                yield (end, None) if found & 1 else (None, end)


def moved(pair: Pair) -> int:
    """Bytes that both ends sent."""
    client, server = pair
    return (client.moved if client else 0) + (server.moved if server else 0)
