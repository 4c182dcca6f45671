# SPDX-License-Identifier: GPL-2.0-or-later
"""The list of connections, put together from what the kernel prints of their ends."""

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sockaccel.core import listing
from sockaccel.core.connection import ConnectionState, EventKind
from sockaccel.core.listing import MAXIMUM_KEPT, PAGE, Connections, Filter, Page, Sight, Viewer
from sockaccel.core.rows import Row
from sockaccel.errors import InvalidArgument, NotPermitted
from sockaccel.kernel.abi import COUNTERS, EVENT, PAIR_KEY
from sockaccel.kernel.abi import EventRecord as Raw
from sockaccel.kernel.ends import Ends
from tests.support.memory_kernel import NAMES, SERVER_PORT, FakeClock
from tests.support.memory_kernel import packed_ends as ends


def changed(data: bytes, end: int, **values: Any) -> bytes:
    """The same with other values for one end."""
    at = end * EVENT.size
    raw = Raw._make(EVENT.unpack(data[at : at + EVENT.size]))._replace(**values)
    return data[:at] + EVENT.pack(*raw) + data[at + EVENT.size :]


def connections_of(
    read: Callable[[], bytes | list[bytes]],
    target_of_slot: Callable[[int], str] = lambda _slot: '',
    paths: Callable[[], dict[int, str]] = dict,
    clock: FakeClock | None = None,
) -> Connections:
    clock = clock or FakeClock()

    def parts() -> Iterator[bytes]:
        found = read()
        return iter([found] if isinstance(found, bytes) else found)

    return Connections(Sight(Ends(parts), paths, target_of_slot, COUNTERS, clock), clock)


def listed(data: bytes, **wanted: Any) -> list[Row]:
    async def once() -> list[Row]:
        connections = connections_of(lambda: data, lambda slot: {1: 'x.service'}.get(slot, ''), lambda: {1: '/x'})
        return (await connections.page(Filter.parse(wanted))).connections

    return asyncio.run(once())


def test_both_ends_make_a_row() -> None:
    (row,) = listed(ends(1))
    assert (row['client_program'], row['server_program']) == ('psql', 'postgres')
    assert (row['client_port'], row['server_port']) == (10000, SERVER_PORT)
    assert (row['target'], row['path']) == ('x.service', 'redirect')
    assert (row['client_cgroup'], row['server_cgroup']) == ('/x', '/x')


def test_an_end_that_is_shown_twice_is_one() -> None:
    data = ends(3)
    assert len(listed(data + data[: EVENT.size])) == 3
    assert len(listed(data[: EVENT.size] * 2)) == 1


def test_ends_meet_by_their_keys_wherever_they_are() -> None:
    data = ends(1)
    assert len(listed(changed(data, 1, flow=elsewhere(data, 1)))) == 1
    assert len(listed(changed(data, 1, key=PAIR_KEY.pack(7, 8)))) == 2


def test_ends_that_are_not_established_do_not_meet() -> None:
    data = ends(1)
    assert len(listed(changed(changed(data, 0, key=bytes(8)), 1, key=bytes(8)))) == 2
    assert len(listed(changed(changed(data, 0, key=bytes(8), active=1), 1, key=bytes(8), active=1))) == 2


def test_each_of_two_ends_that_claim_the_same_is_listed() -> None:
    data = ends(1)
    twin = changed(data[: EVENT.size], 0, cookie=77)
    assert len(listed(data + twin)) == 2


@pytest.mark.parametrize(
    ('end', 'values', 'path', 'reasons'),
    [
        (0, {}, 'redirect', ('', '')),
        (0, {'reason': NAMES.index('order')}, 'mixed', ('order', '')),
        (1, {'reason': NAMES.index('backlog')}, 'mixed', ('', 'backlog')),
        (0, {'marked': NAMES.index('drained')}, 'mixed', ('drained', '')),
        (0, {'state': ConnectionState.LEFT, 'reason': NAMES.index('mptcp')}, 'tcp', ('mptcp', 'mptcp')),
        (1, {'state': ConnectionState.CANDIDATE}, 'tcp', ('', '')),
    ],
)
def test_the_way_and_the_reason(end: int, values: dict[str, int], path: str, reasons: tuple[str, str]) -> None:
    (row,) = listed(changed(ends(1), end, **values))
    assert (row['path'], (row['client_reason'], row['server_reason'])) == (path, reasons)
    assert len(listed(changed(ends(1), end, **values), path=path)) == 1
    for other in {'redirect', 'tcp', 'mixed'} - {path}:
        assert listed(changed(ends(1), end, **values), path=other) == []


def test_a_client_alone_has_its_reason() -> None:
    left = changed(ends(1)[: EVENT.size], 0, state=ConnectionState.LEFT, reason=NAMES.index('excluded'))
    (row,) = listed(left)
    assert (row['server_state'], row['path'], row['server_reason']) == ('', 'tcp', 'excluded')
    assert (row['server_address'], row['server_port']) == ('127.0.0.1', SERVER_PORT)


@pytest.mark.parametrize(
    ('wanted', 'expected'),
    [
        ({}, 4),
        ({'port': 10002}, 1),
        ({'port': SERVER_PORT}, 4),
        ({'port': 1}, 0),
        ({'address': '127.0.0.1'}, 4),
        ({'address': '::ffff:127.0.0.1'}, 4),
        ({'address': '::1'}, 0),
        ({'program': 'psql'}, 4),
        ({'program': 'psq'}, 0),
        ({'pid': 100}, 4),
        ({'target': 'x.service'}, 4),
        ({'target': 'y.service'}, 0),
        ({'reason': 'order'}, 0),
        ({'port': 10001, 'program': 'postgres', 'path': 'redirect'}, 1),
    ],
)
def test_filters(wanted: dict[str, Any], expected: int) -> None:
    assert len(listed(ends(4), **wanted)) == expected


@pytest.mark.parametrize(
    ('wanted', 'said'),
    [
        ({'nonsense': 1}, 'filter "nonsense" is unknown'),
        ({'port': '80'}, 'filter "port" is not a number'),
        ({'port': True}, 'filter "port" is not a number'),
        ({'target': 1}, 'filter "target" is not a string'),
        ({'path': 'x'}, 'path "x" is none of'),
        ({'address': 'x'}, 'address "x" is not an IP address'),
    ],
)
def test_a_wrong_filter_is_named(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        Filter.parse(wanted)


def test_pages_of_one_listing() -> None:
    data = ends(2 * PAGE + 1)

    async def read() -> None:
        connections = connections_of(lambda: data)
        page = await connections.page(Filter())
        rows = list(page.connections)
        while len(rows) < page.total:
            page = await connections.page(Filter(), page.listing, len(rows))
            rows += page.connections
        sent = [row['client_redirected_bytes'] for row in rows]
        assert sent == sorted(range(2 * PAGE + 1), reverse=True)
        with pytest.raises(InvalidArgument, match='is not kept any more'):
            await connections.page(Filter(), page.listing, 0)

    asyncio.run(read())


def test_of_many_connections_the_busiest_are_kept() -> None:
    number = MAXIMUM_KEPT + 10

    async def read() -> None:
        connections = connections_of(lambda: ends(number))
        page = await connections.page(Filter())
        assert page.total == number
        last = await connections.page(Filter(), page.listing, MAXIMUM_KEPT - PAGE)
        sent = [row['client_redirected_bytes'] for row in page.connections + last.connections]
        assert sent == [*range(number - 1, number - 1 - PAGE, -1), *range(9 + PAGE, 9, -1)]
        with pytest.raises(InvalidArgument, match='is not kept any more'):
            await connections.page(Filter(), page.listing, MAXIMUM_KEPT)

    asyncio.run(read())


@pytest.mark.parametrize('remembered', [0, listing._REMEMBERED], ids=['walked twice', 'remembered'])
def test_the_busiest_of_all_are_those_that_a_filter_for_all_finds(
    monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    """The two are found in different ways. No part has both ends of a connection; some ends have no other."""
    monkeypatch.setattr(listing, '_REMEMBERED', remembered)
    data = ends(MAXIMUM_KEPT + 300)
    rows = [data[at : at + EVENT.size] for at in range(0, len(data), EVENT.size)]
    chance = random.Random(4)
    chance.shuffle(rows)
    rows = rows[100:]
    parts = [b''.join(rows[at : at + 999]) for at in range(0, len(rows), 999)]
    parts += [rows[0], changed(changed(rows[1], 0, key=bytes(8)), 0, cookie=2**40)]

    async def read(wanted: Filter) -> tuple[int, list[Row]]:
        connections = connections_of(lambda: parts)
        page = await connections.page(wanted)
        last = await connections.page(wanted, page.listing, MAXIMUM_KEPT - 100)
        return page.total, [row | {'age_ns': 0} for row in page.connections + last.connections]

    total, found = asyncio.run(read(Filter()))
    assert len(found) == PAGE + 100
    assert (total, found) == asyncio.run(read(Filter(port=SERVER_PORT)))


def test_a_listing_is_kept_while_it_is_read() -> None:
    async def read() -> None:
        clock = FakeClock()
        connections = connections_of(lambda: ends(5 * PAGE), clock=clock)
        page = await connections.page(Filter())
        # Longer in all than it is kept without being asked for.
        for number in range(1, 4):
            clock.advance(20)
            page = await connections.page(Filter(), page.listing, number * PAGE)
        clock.advance(31)
        with pytest.raises(InvalidArgument, match='not kept'):
            await connections.page(Filter(), page.listing, 4 * PAGE)

    asyncio.run(read())


def test_only_so_many_listings_are_kept() -> None:
    data = ends(PAGE + 1)

    async def read() -> None:
        connections = connections_of(lambda: data)
        first, *others = [await connections.page(Filter()) for _listing in range(3)]
        assert [len((await connections.page(Filter(), page.listing, PAGE)).connections) for page in others] == [
            1,
            1,
        ]
        with pytest.raises(InvalidArgument):
            await connections.page(Filter(), first.listing, PAGE)

    asyncio.run(read())


def test_the_loop_goes_on_while_connections_are_listed() -> None:
    """Reading waits for the loop; and nothing that is done for each connection is done in the loop's thread."""
    data, loop_goes_on = ends(10), threading.Event()
    threads: set[int] = set()

    def read() -> bytes:
        assert loop_goes_on.wait(60)
        return data

    def target_of_slot(_slot: int) -> str:
        threads.add(threading.get_ident())
        return 'x.service'

    def paths() -> dict[int, str]:
        threads.add(threading.get_ident())
        return {}

    async def story() -> None:
        page = asyncio.ensure_future(connections_of(read, target_of_slot, paths).page(Filter(target='x.service')))
        await asyncio.sleep(0)
        loop_goes_on.set()
        assert (await page).total == 10

    asyncio.run(story())
    assert threads
    assert threading.get_ident() not in threads


def test_an_unknown_cgroup_is_looked_for_now_and_then() -> None:
    """To read the cgroup tree costs more than a page."""
    looks: list[float] = []

    async def story() -> None:
        clock = FakeClock()

        def paths() -> dict[int, str]:
            looks.append(clock.time())
            return {}

        connections = connections_of(lambda: ends(1), paths=paths, clock=clock)
        for _page in range(100):
            await connections.page(Filter())
            clock.advance(0.1)

    asyncio.run(story())
    assert 9 <= len(looks) <= 10


def test_what_the_walk_prints_is_a_connection() -> None:
    assert Raw._make(EVENT.unpack(ends(1)[: EVENT.size])).kind == EventKind.CONNECTION


def test_others_than_root_keep_one_listing_each_and_not_his() -> None:
    data = ends(PAGE + 1)
    root, one, other = Viewer(0), Viewer(1000, netns=1), Viewer(1001, netns=1)

    async def read() -> None:
        connections = connections_of(lambda: data)

        async def is_kept(page: Page, viewer: Viewer) -> bool:
            try:
                await connections.page(Filter(), page.listing, 0, viewer)
            except InvalidArgument:
                return False
            return True

        of_root = await connections.page(Filter(), viewer=root)
        assert not await is_kept(of_root, one)
        first = await connections.page(Filter(), viewer=one)
        second = await connections.page(Filter(), viewer=one)
        of_other = await connections.page(Filter(), viewer=other)
        assert not await is_kept(first, one)
        assert await is_kept(second, one)
        assert not await is_kept(second, other)
        assert await is_kept(of_other, other)
        for user in range(2000, 2010):
            await connections.page(Filter(), viewer=Viewer(user))
        assert not await is_kept(second, one)
        assert await is_kept(of_root, root)

    asyncio.run(read())


def test_others_see_one_network_namespace_and_no_programs() -> None:
    far = ends(3)[4 * EVENT.size :]
    far = changed(changed(far, 0, flow=elsewhere(far, 0)), 1, flow=elsewhere(far, 1))
    viewer = Viewer(1000, netns=1)

    async def read() -> None:
        connections = connections_of(lambda: ends(2) + far)
        assert (await connections.page(Filter())).total == 3
        page = await connections.page(Filter(), viewer=viewer)
        assert page.total == 2
        hidden = {f'{end}_{key}' for end in ('client', 'server') for key in ('program', 'pid', 'cgroup')}
        assert {row[key] for row in page.connections for key in hidden} == {'', 0}
        assert all(row['client_address'] == '127.0.0.1' for row in page.connections)
        for wanted in (Filter(program='psql'), Filter(pid=100)):
            with pytest.raises(NotPermitted, match=r'org\.sockaccel1\.inspect'):
                await connections.page(wanted, viewer=viewer)

    asyncio.run(read())


def elsewhere(data: bytes, end: int) -> bytes:
    """The flow of an end, in another network namespace."""
    raw = Raw._make(EVENT.unpack(data[end * EVENT.size : (end + 1) * EVENT.size]))
    return (99).to_bytes(8, 'little') + raw.flow[8:]
