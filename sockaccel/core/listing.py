# SPDX-License-Identifier: GPL-2.0-or-later
"""The connections that targets cover, in pages and in parts. There can be a hundred thousand."""

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Generic, Self, TypeVar

from sockaccel.core import filters, heap, words
from sockaccel.core.connection import Counter, pack_address
from sockaccel.core.ends import End, Layout, Pair, Pairs
from sockaccel.core.origins import Origin, Origins, restricted, unpack
from sockaccel.core.protocols import Clock, Ends, Timer
from sockaccel.core.rows import (
    NOWHERE,
    Names,
    Row,
    Wording,
    path_of,
    program_of,
    reasons_of,
    row,
    state_of,
    target_of,
)
from sockaccel.core.tally import Tally, of_connections
from sockaccel.core.target import quote
from sockaccel.errors import InvalidArgument, NotPermitted

# Connections in a page, and in all pages of a listing: 3 MB. Who wants more than the busiest reads the parts.
PAGE = 256
MAXIMUM_KEPT = 32 * PAGE
# Bytes of a walk, of some 180,000 connections, that are looked at twice; more than that is walked twice.
_REMEMBERED = 64 * 1024 * 1024
# Of listings. uid 0 may have two, each other user one, and these together two.
_MAXIMUM_LISTINGS = 2
_KEPT_FOR_S = 30.0
# The cgroup tree is read again for an unknown cgroup, but no sooner than this after the last time.
_LOOK_AGAIN_AFTER_S = 1.0
T = TypeVar('T')


@dataclass(frozen=True)
class Viewer:
    """Who asks. user: a uid. netns: the cookie of the only network namespace they see; None: all, and programs."""

    user: int = 0
    netns: int | None = None

    @property
    def sees_programs(self) -> bool:
        """Whether they may know whose a connection is: program, pid and cgroup."""
        return self.netns is None

    def sees(self, netns: int) -> bool:
        """Whether they may know of the connections of a network namespace."""
        return self.netns in (None, netns)


_ROOT = Viewer()


@dataclass(frozen=True)
class Filter:
    """Which connections are wanted. None: any.

    reason, program, address, port and pid: a connection is wanted if one of its ends has it.
    """

    target: str | None = None
    path: str | None = None
    reason: str | None = None
    program: str | None = None
    address: str | None = None
    port: int | None = None
    pid: int | None = None

    @classmethod
    def parse(cls, wanted: Mapping[str, Any]) -> Self:
        """From what a user gave. Raises InvalidArgument, naming what is wrong."""
        filters.check(wanted, fields(cls))
        chosen = cls(**wanted)
        if chosen.path is not None and chosen.path not in words.PATHS:
            raise InvalidArgument(f'path {quote(chosen.path)} is none of {", ".join(words.PATHS)}')
        chosen._packed_address()
        return chosen

    def permit(self, *, programs: bool) -> None:
        """programs: whether the one who asks may know them. Raises NotPermitted where the filter asks for more."""
        if not programs and (self.program is not None or self.pid is not None):
            raise NotPermitted(
                'filters "program" and "pid" need what polkit does not give this user (org.sockaccel1.inspect)'
            )

    def chooser(self, names: Names) -> Callable[[Pair], bool]:
        """What says of a connection whether it is wanted."""
        address = self._packed_address()
        of_ends: list[Callable[[End], bool]] = []
        if self.port is not None:
            of_ends.append(lambda end: self.port in (end.local_port, end.remote_port))
        if address is not None:
            of_ends.append(lambda end: address in (end.local, end.remote))
        if self.pid is not None:
            of_ends.append(lambda end: end.pid == self.pid)
        if self.program is not None:
            of_ends.append(lambda end: program_of(end.program) == self.program)
        if self == Filter():
            return lambda _pair: True

        def fits(pair: Pair) -> bool:
            if not all(any(end and fits_end(end) for end in pair) for fits_end in of_ends):
                return False
            if self.target is not None and self.target != target_of(pair, names):
                return False
            reasons = reasons_of(pair, names.reasons)
            return self.reason in (None, *reasons) and self.path in (None, path_of(state_of(pair), *reasons))

        return fits

    def _packed_address(self) -> bytes | None:
        """The address by `pack_address`. Raises InvalidArgument."""
        if self.address is None:
            return None
        try:
            return pack_address(self.address)
        except ValueError as exc:
            raise InvalidArgument(f'address {quote(self.address)} is not an IP address') from exc


class Sight:
    """The ends as the kernel side reads them, cut to what a viewer may see, and what their numbers stand for.

    cgroup_paths: gives the path of each cgroup by id. target_of_slot: gives a target's name. origins: gives where
    connections that are led wanted to go. All is called in threads, and so is what this has.
    """

    def __init__(
        self,
        ends: Ends,
        cgroup_paths: Callable[[], dict[int, str]],
        target_of_slot: Callable[[int], str],
        counters: list[Counter],
        clock: Clock,
        origins: Origins = lambda: iter(()),
    ) -> None:
        self.reasons = [counter.name for counter in counters]
        self.target = target_of_slot
        self._ends = ends
        self._origins = origins
        self._clock = clock
        self._cgroup_paths = cgroup_paths
        self._paths: dict[int, str] = {}
        self._looked_at = -math.inf

    @property
    def layout(self) -> Layout:
        """Of what `parts()` gives."""
        return self._ends.layout

    def parts(self, viewer: Viewer) -> Iterator[bytes]:
        """What the viewer may see of every end, in parts as the walk goes. Raises OSError."""
        for part in self._ends.parts():
            yield part if viewer.netns is None else self.layout.restricted(part, viewer.netns)

    def origins(self, viewer: Viewer) -> Iterator[bytes]:
        """The same of where connections that are led wanted to go (sockaccel.core.origins). Raises OSError."""
        for part in self._origins():
            yield part if viewer.netns is None else restricted(part, viewer.netns)

    def cgroup(self, number: int) -> str:
        """See Names. 0 is what stands where the viewer may not know."""
        if number and number not in self._paths:
            now = self._clock.time()
            if now - self._looked_at > _LOOK_AGAIN_AFTER_S:
                self._paths, self._looked_at = self._cgroup_paths(), now
        return self._paths.get(number, '')


@dataclass(frozen=True)
class _Named:
    """What the numbers of a page's ends stand for. Implements Names."""

    sight: Sight
    led: Mapping[int, Origin]

    @property
    def reasons(self) -> list[str]:
        return self.sight.reasons

    def target(self, slot: int) -> str:
        return self.sight.target(slot)

    def cgroup(self, number: int) -> str:
        return self.sight.cgroup(number)

    def origin(self, cookie: int) -> Origin:
        return self.led.get(cookie, NOWHERE)


@dataclass(frozen=True)
class Page:
    """total: how many connections fit the filter. listing: its number, to ask for the next page."""

    connections: list[Row]
    total: int
    listing: int


@dataclass(frozen=True)
class _Kept:
    """A listing, whose it is, and what forgets it."""

    viewer: Viewer
    found: bytes
    total: int
    timer: Timer


class Connections:
    """Lists the busiest in a thread, page by page. A listing is kept for half a minute after each page, packed."""

    def __init__(self, sight: Sight, clock: Clock) -> None:
        self.sight = sight
        self._clock = clock
        # First the one whose last page was asked for longest ago.
        self._listings: dict[int, _Kept] = {}
        self._last = 0
        # uid 0 does not wait for the listings of others.
        self._one_at_a_time = {True: asyncio.Lock(), False: asyncio.Lock()}

    async def page(self, wanted: Filter, listing: int = 0, offset: int = 0, viewer: Viewer = _ROOT) -> Page:
        """Up to PAGE connections from offset on, the busiest first, and of no more than MAXIMUM_KEPT.

        listing: 0 for a new one, otherwise that of the page before. Raises InvalidArgument if it is not kept for
        this viewer, and NotPermitted where the filter asks what they may not know.
        """
        wanted.permit(programs=viewer.sees_programs)
        async with self._one_at_a_time[_is_privileged(viewer)]:
            if not listing:
                self._last += 1
                listing = self._last
                found, total = await asyncio.to_thread(self._find, wanted, viewer)
            elif listing in self._listings and self._listings[listing].viewer == viewer:
                found, total = self._listings[listing].found, self._listings[listing].total
            else:
                raise InvalidArgument(f'listing {listing} is not kept any more: begin again with listing 0')
            size = 2 * self.sight.layout.size
            packed = found[offset * size : (offset + PAGE) * size]
            rows = await asyncio.to_thread(self._describe, packed, viewer)
            self._forget(listing)
            if (offset + PAGE) * size < len(found):
                self._keep(listing, found, total, viewer)
            return Page(rows, total, listing)

    def _keep(self, listing: int, found: bytes, total: int, viewer: Viewer) -> None:
        """The time begins anew with each page: to ask for all of them may take longer than a listing is kept."""
        privileged = _is_privileged(viewer)
        if not privileged:
            for other, kept in list(self._listings.items()):
                if kept.viewer.user == viewer.user:
                    self._forget(other)
        alike = [other for other, kept in self._listings.items() if _is_privileged(kept.viewer) == privileged]
        for other in alike[: max(0, len(alike) - _MAXIMUM_LISTINGS + 1)]:
            self._forget(other)
        timer = self._clock.call_at(self._clock.time() + _KEPT_FOR_S, partial(self._forget, listing))
        self._listings[listing] = _Kept(viewer, found, total, timer)

    def _forget(self, listing: int) -> None:
        if kept := self._listings.pop(listing, None):
            kept.timer.cancel()

    def _find(self, wanted: Filter, viewer: Viewer) -> tuple[bytes, int]:
        """The busiest, packed, and how many there are in all."""
        walk = partial(self.sight.parts, viewer)
        if wanted == Filter():
            found, total = _busiest_of_all(walk, self.sight.layout)
        else:
            found, total = _busiest(walk(), self.sight.layout, wanted.chooser(_Named(self.sight, {})))
        if total > MAXIMUM_KEPT:
            heap.give_back()
        return found, total

    def _describe(self, packed: bytes, viewer: Viewer) -> list[Row]:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        pairs = self.sight.layout.pairs(packed)
        cookies = {client.cookie for client, _server in pairs if client}
        led: dict[int, Origin] = {}
        for part in self.sight.origins(viewer):
            led |= unpack(part, cookies)
        wording = Wording(_Named(self.sight, led))
        return [row(pair, wording, now) for pair in pairs]


def _busiest_of_all(walk: Callable[[], Iterator[bytes]], layout: Layout) -> tuple[bytes, int]:
    """The same as `_busiest`, without putting connections together of which none is wanted."""
    tally, parts, size = Tally(layout), list[bytes](), 0
    for part in walk():
        tally.add(part)
        size += len(part)
        parts.append(part)
        if size > _REMEMBERED:
            parts.clear()
    total, numbers = tally.connections, tally.busiest(MAXIMUM_KEPT)
    del tally
    again = parts if size <= _REMEMBERED else walk()
    found, wanted = _busiest((of_connections(part, layout, numbers) for part in again), layout)
    return found, total if total > MAXIMUM_KEPT else wanted


def _busiest(
    parts: Iterable[bytes], layout: Layout, wants: Callable[[Pair], bool] | None = None
) -> tuple[bytes, int]:
    """Of the connections in parts of a walk the busiest, packed, and how many there are in all.

    wants: whether a connection counts; None: each does.
    """
    busiest, pairs = Busiest[tuple[bytes]](MAXIMUM_KEPT), Pairs(layout)

    def add(packed: bytes) -> None:
        found: Iterable[tuple[int, tuple[bytes]]] = zip(
            layout.moved(packed), layout.packed_pairs(packed), strict=True
        )
        if wants:
            found = itertools.compress(found, map(wants, layout.pairs(packed)))
        busiest.add(found)

    for part in parts:
        add(pairs.packed(part))
    add(pairs.packed_rest())
    return b''.join(packed for (packed,) in busiest.found()), busiest.total


class Busiest(Generic[T]):
    """Of any number of connections those that have sent most. limit: how many are kept; total: how many came."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[int, int, T]] = []
        self.total = 0

    def add(self, connections: Iterable[tuple[int, T]]) -> None:
        """Each with the bytes that it has sent. Of two that have sent as much the one that came first is kept."""
        kept, limit, number = self._heap, self._limit, self.total
        for moved, connection in connections:
            number += 1
            if len(kept) < limit:
                heapq.heappush(kept, (moved, -number, connection))
            elif moved > kept[0][0]:
                heapq.heapreplace(kept, (moved, -number, connection))
        self.total = number

    def found(self) -> list[T]:
        """The busiest first."""
        return [connection for _moved, _number, connection in sorted(self._heap, key=_most_first, reverse=True)]


def _most_first(entry: tuple[int, int, Any]) -> tuple[int, int]:
    return entry[:2]


def _is_privileged(viewer: Viewer) -> bool:
    return viewer.user == 0
