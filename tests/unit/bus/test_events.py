# SPDX-License-Identifier: GPL-2.0-or-later
"""Who follows the events gets them as fast as they are read, and what is too much is lost to nobody else."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog

from sockaccel.bus.events import Followers, Wanted
from sockaccel.core.connection import Counter, EventKind, Flow
from sockaccel.core.listing import Viewer
from sockaccel.errors import InvalidArgument, LimitExceeded, NotPermitted
from tests.support.memory_kernel import end

ROOT, USER = Viewer(0), Viewer(1000, netns=1)
ALL = Wanted()
REASON = Counter('order', 'message', 'a sentence')


def run(play: Callable[[Followers], Awaitable[None]]) -> None:
    async def once() -> None:
        followers = Followers()
        await play(followers)
        followers.close()

    asyncio.run(once())


async def lines(sock: socket.socket, count: int) -> list[dict[str, Any]]:
    """So many lines, or all until the end if there are fewer."""
    reader, writer = await asyncio.open_connection(sock=sock)
    found: list[dict[str, Any]] = []
    while len(found) < count and (line := await reader.readline()):
        found.append(json.loads(line))
    writer.close()
    return found


def test_each_event_is_a_line() -> None:
    async def play(followers: Followers) -> None:
        sock = followers.add(ROOT, ALL)
        followers.publish(end(), 'x.service', REASON)
        followers.publish(end(kind=EventKind.CLOSED), 'y.service', None)
        first, second = await lines(sock, 2)
        assert (first['kind'], first['target'], first['reason'], first['pid']) == (
            'joined',
            'x.service',
            'order',
            42,
        )
        assert (second['kind'], second['target'], second['reason']) == ('closed', 'y.service', '')

    run(play)


def test_a_slow_reader_loses_its_own_events_and_is_told_how_many() -> None:
    async def play(followers: Followers) -> None:
        slow, quick = followers.add(ROOT, ALL), followers.add(ROOT, ALL)
        reading = asyncio.ensure_future(lines(quick, 10_000))
        with structlog.testing.capture_logs() as logged:
            for number in range(10_000):
                followers.publish(end(cookie=number, pid=number), 'x.service', None)
                await asyncio.sleep(0)
        assert [event['pid'] for event in await reading] == list(range(10_000))
        assert len(logged) == 1
        assert len(followers._all[0]._waiting) <= 256 * 1024
        found, read = 0, []
        while found < 10_000:
            slow.setblocking(False)
            await asyncio.sleep(0)
            try:
                read.append(slow.recv(1 << 20))
            except BlockingIOError:
                continue
            told = [json.loads(line) for line in b''.join(read).split(b'\n') if line.endswith(b'}')]
            found = sum(event.get('lost', 1) for event in told)
        # No event came after those that were lost, and it is told of them all the same.
        assert found == 10_000
        assert 'lost' in told[-1]
        slow.close()

    run(play)


def test_to_close_it_ends_it() -> None:
    async def play(followers: Followers) -> None:
        for _again in range(100):
            followers.add(USER, ALL).close()
            for _round in range(3):
                await asyncio.sleep(0)
        assert followers._all == []
        followers.add(USER, ALL).close()
        followers.publish(end(), 'x', None)
        for _round in range(3):
            await asyncio.sleep(0)
        assert followers._all == []

    run(play)


def test_the_end_of_the_daemon_ends_it() -> None:
    async def play(followers: Followers) -> None:
        with followers.add(USER, ALL) as sock:
            followers.close()
            assert sock.recv(1) == b''

    run(play)


def test_a_user_follows_a_limited_number_of_times() -> None:
    async def play(followers: Followers) -> None:
        with structlog.testing.capture_logs():
            ours = [followers.add(USER, ALL) for _again in range(8)]
            with pytest.raises(LimitExceeded, match=r'as many subscriptions as a user may have \(8\)'):
                followers.add(USER, ALL)
            for user in range(2000, 2007):
                ours += [followers.add(Viewer(user), ALL) for _again in range(8)]
            with pytest.raises(LimitExceeded, match=r'as they may together \(64\)'):
                followers.add(Viewer(3000), ALL)
        ours.append(followers.add(ROOT, ALL))
        for sock in ours:
            sock.close()

    run(play)


def test_what_others_may_not_know() -> None:
    async def play(followers: Followers) -> None:
        sock = followers.add(USER, ALL)
        followers.publish(end(flow=Flow(2, '10.0.0.1', '10.0.0.2', 1, 2)), 'x', None)
        followers.publish(end(), 'x', None)
        (event,) = await lines(sock, 1)
        assert (event['netns_cookie'], event['program'], event['pid'], event['cgroup_id']) == (1, '', 0, 0)

    run(play)


@pytest.mark.parametrize(
    ('wanted', 'fits'),
    [
        ({}, True),
        ({'target': 'x', 'kind': 'joined', 'reason': 'order', 'program': 'psql', 'port': 5432}, True),
        ({'port': 40000}, True),
        ({'port': 1}, False),
        ({'target': 'y'}, False),
        ({'kind': 'closed'}, False),
        ({'reason': ''}, False),
        ({'program': 'x'}, False),
    ],
)
def test_filters(wanted: dict[str, Any], fits: bool) -> None:  # noqa: FBT001
    assert Wanted.parse(wanted, ROOT).fits(end(), 'x', 'order') is fits


def test_a_wrong_filter_is_named() -> None:
    for wanted, said in (
        ({'nonsense': 1}, 'filter "nonsense" is unknown'),
        ({'port': 'x'}, 'filter "port" is not a number'),
        ({'kind': 'x'}, 'kind "x" is none of joined'),
    ):
        with pytest.raises(InvalidArgument, match=said):
            Wanted.parse(wanted, ROOT)
    with pytest.raises(NotPermitted, match=r'org\.sockaccel1\.inspect'):
        Wanted.parse({'program': 'psql'}, USER)
