# SPDX-License-Identifier: GPL-2.0-or-later
"""Listings of all ends go to whoever reads them, part by part."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import structlog

from sockaccel.bus import streams
from sockaccel.bus.streams import Streams
from sockaccel.core.ends import End, Layout
from sockaccel.core.listing import Sight, Viewer
from sockaccel.errors import LimitExceeded
from sockaccel.kernel.abi import COUNTERS, EVENT
from sockaccel.kernel.ends import Ends
from tests.support.memory_kernel import FakeClock, packed_ends

ROOT, USER = Viewer(0), Viewer(1000, netns=1)
PART = 100 * EVENT.size


class Walk:
    """So many connections in small parts; counts the parts that were asked for."""

    def __init__(self, connections: int, paths: dict[int, str] | None = None) -> None:
        self.data = packed_ends(connections)
        self.asked = 0
        self.sight = Sight(
            Ends(self.parts), lambda: paths or {}, lambda slot: f'{slot}.service', COUNTERS, FakeClock()
        )

    def parts(self) -> Iterator[bytes]:
        for at in range(0, len(self.data), PART):
            self.asked += 1
            yield self.data[at : at + PART]


def run(walk: Walk, play: Callable[[Streams], Awaitable[None]]) -> None:
    async def once() -> None:
        listings = Streams(walk.sight)
        await play(listings)
        listings.close()
        await asyncio.gather(*listings._running, return_exceptions=True)

    asyncio.run(once())


async def read(sock: socket.socket) -> tuple[list[dict[str, Any]], list[End]]:
    """What the lines say, and all ends."""
    reader, writer = await asyncio.open_connection(sock=sock)
    said = [json.loads(await reader.readline())]
    layout, found = Layout(said[0]['fields']), list[End]()
    while line := await reader.readline():
        said.append(json.loads(line))
        found += layout.ends(await reader.readexactly(said[-1].get('ends', 0) * layout.size))
    writer.close()
    return said, found


def test_all_ends_come_with_their_names() -> None:
    walk = Walk(1000, {1: '/x'})

    async def play(listings: Streams) -> None:
        (head, first, *others, last), ends = await read(listings.add(ROOT))
        assert head['programs'] is True
        assert head['reasons'] == [counter.name for counter in COUNTERS]
        assert head['states'] == ['connecting', 'candidate', 'joined', 'left']
        assert (first['targets'], first['cgroups']) == ({'1': '1.service'}, {'1': '/x'})
        assert all((said['targets'], said['cgroups']) == ({}, {}) for said in others)
        assert last == {'total': 2000}
        clients = {(end.sent, end.received) for end in ends if end.active}
        assert len(clients) == 1000
        assert clients == {(end.received, end.sent) for end in ends if not end.active}
        assert {name for name, _code in head['fields']} == {*End._fields, ''}

    run(walk, play)
    assert walk.asked == 20


def test_others_get_what_they_may_see() -> None:
    async def play(listings: Streams) -> None:
        (head, first, *_others), ends = await read(listings.add(USER))
        assert head['programs'] is False
        assert first['cgroups'] == {}
        assert {(end.pid, end.cgroup, end.program) for end in ends} == {(0, 0, bytes(16))}
        assert len(ends) == 200
        (_head, first, *_others), ends = await read(listings.add(Viewer(1000, netns=2)))
        assert (first['ends'], ends) == (0, [])

    run(Walk(100, {1: '/x'}), play)


def test_the_walk_waits_for_its_reader() -> None:
    """What the socket has no room for is not even read from the kernel."""
    walk = Walk(10_000)

    async def play(listings: Streams) -> None:
        slow = listings.add(ROOT)
        _said, ends = await read(listings.add(ROOT))
        assert len(ends) == 20_000
        # The other walk was complete; this one has stopped somewhere.
        assert 200 <= walk.asked < 300
        _said, ends = await read(slow)
        assert len(ends) == 20_000

    run(walk, play)
    assert walk.asked == 400


def test_who_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, '_PATIENCE_S', 0.01)

    async def play(listings: Streams) -> None:
        sock = listings.add(USER)
        with structlog.testing.capture_logs() as logged:
            await asyncio.gather(*listings._running)
        (line,) = logged
        assert 'uid 1000' in line['event']
        reader, writer = await asyncio.open_connection(sock=sock)
        data = await reader.read()
        writer.close()
        assert data
        assert b'"total"' not in data

    run(Walk(10_000), play)


def test_who_has_read_enough_hangs_up() -> None:
    walk = Walk(10_000)

    async def play(listings: Streams) -> None:
        sock = listings.add(USER)
        running = list(listings._running)
        sock.close()
        await asyncio.gather(*running)
        assert not listings._running

    run(walk, play)
    assert walk.asked < 100


def test_each_user_reads_so_many_at_a_time() -> None:
    async def play(listings: Streams) -> None:
        held = [listings.add(USER)]
        (first,) = listings._running
        held.append(listings.add(USER))
        with pytest.raises(LimitExceeded, match='uid 1000 has as many listings that are being read'):
            listings.add(USER)
        held.append(listings.add(ROOT))
        _said, _ends = await read(held.pop(0))
        await first
        held.append(listings.add(USER))
        for sock in held:
            sock.close()

    run(Walk(10_000), play)


def test_a_walk_that_fails_is_told() -> None:
    walk = Walk(1)

    def failing() -> Iterator[bytes]:
        yield from Walk.parts(walk)
        raise OSError('no memory')

    walk.sight = Sight(Ends(failing), dict, str, COUNTERS, FakeClock())

    async def play(listings: Streams) -> None:
        with structlog.testing.capture_logs() as logged:
            said, ends = await read(listings.add(ROOT))
            await asyncio.gather(*listings._running)
        assert len(ends) == 2
        assert 'total' not in said[-1]
        assert [(line['log_level'], 'no memory' in line['event']) for line in logged] == [('warning', True)]

    run(walk, play)
