# SPDX-License-Identifier: GPL-2.0-or-later
"""The connections that a target covers, put together from their two ends. There can be a hundred thousand."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Self

from sockaccel.core import filters
from sockaccel.core.connection import ConnectionState, Counter, Event, pack_address
from sockaccel.core.protocols import Clock, Ends, RawEnd, Timer
from sockaccel.core.target import quote
from sockaccel.errors import InvalidArgument, NotPermitted

# Connections in a page.
PAGE = 256
# A listing of 100,000 connections takes 50 MB. uid 0 may have two, each other user one, and these together two.
_MAXIMUM_LISTINGS = 2
_KEPT_FOR_S = 30.0
# The cgroup tree is read again for an unknown cgroup, but no sooner than this after the last time.
_LOOK_AGAIN_AFTER_S = 1.0

PATHS = ('redirect', 'tcp', 'mixed')


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
        if chosen.path is not None and chosen.path not in PATHS:
            raise InvalidArgument(f'path {quote(chosen.path)} is none of {", ".join(PATHS)}')
        chosen.packed_address()
        return chosen

    def packed_address(self) -> bytes | None:
        """The address by `pack_address`. Raises InvalidArgument."""
        if self.address is None:
            return None
        try:
            return pack_address(self.address)
        except ValueError as exc:
            raise InvalidArgument(f'address {quote(self.address)} is not an IP address') from exc


@dataclass(frozen=True)
class Connection:
    """client, server: its ends; one of them is None where it is unknown or gone already.

    client_reason, server_reason: why the last message that the end sent went by TCP, '' if it was redirected or
    there was none. path: one of PATHS. state: JOINED if both ends have joined, otherwise that of one that has not.
    """

    target: str
    client: Event | None
    server: Event | None
    client_reason: str
    server_reason: str
    client_cgroup: str
    server_cgroup: str
    path: str
    state: ConnectionState
    age_ns: int


@dataclass(frozen=True)
class Page:
    """total: how many connections the listing has. listing: its number, to ask for the next page."""

    connections: list[Connection]
    total: int
    listing: int


Pair = tuple[RawEnd | None, RawEnd | None]
# The same in a third of the memory.
Packed = tuple[bytes | None, bytes | None]


@dataclass(frozen=True)
class _Kept:
    """A listing, whose it is, and what forgets it."""

    viewer: Viewer
    found: list[Packed]
    timer: Timer


def pairs(ends: Ends, packed: bytes) -> list[Pair]:
    """Client and server of each connection in what `ends` has read, where an end may occur more than once."""
    by_flow = {end.flow: end for end in ends.rows(packed)}
    found: list[Pair] = []
    for flow, end in by_flow.items():
        peer = by_flow.get(ends.mirrored(flow))
        if end.active:
            # Of a missed connection both ends may count as the active one: take each pair once.
            if not (peer and peer.active and end.flow > peer.flow):
                found.append((end, peer))
        elif peer is None or not peer.active:
            found.append((None, end))
    return found


class Connections:
    """Lists them in a thread, page by page. A listing is kept for half a minute after each page, packed.

    cgroup_paths: gives the path of each cgroup by id. target_of_slot: gives a target's name. Both are called in
    the thread.
    """

    def __init__(
        self,
        ends: Ends,
        cgroup_paths: Callable[[], dict[int, str]],
        target_of_slot: Callable[[int], str],
        counters: list[Counter],
        clock: Clock,
    ) -> None:
        self._ends = ends
        self._clock = clock
        self._cgroup_paths = cgroup_paths
        self._target_of_slot = target_of_slot
        self._reasons = [counter.name for counter in counters]
        self._paths: dict[int, str] = {}
        self._looked_at = -math.inf
        # First the one whose last page was asked for longest ago.
        self._listings: dict[int, _Kept] = {}
        self._last = 0
        # uid 0 does not wait for the listings of others.
        self._one_at_a_time = {True: asyncio.Lock(), False: asyncio.Lock()}

    async def page(self, wanted: Filter, listing: int = 0, offset: int = 0, viewer: Viewer = _ROOT) -> Page:
        """Up to PAGE connections from offset on, the busiest first.

        listing: 0 for a new one, otherwise that of the page before. Raises InvalidArgument if it is not kept for
        this viewer, and NotPermitted where the filter asks what they may not know.
        """
        if not viewer.sees_programs and (wanted.program is not None or wanted.pid is not None):
            raise NotPermitted(
                'filters "program" and "pid" need what polkit does not give this user (org.sockaccel1.inspect)'
            )
        async with self._one_at_a_time[_is_privileged(viewer)]:
            if not listing:
                self._last += 1
                listing = self._last
                found = await asyncio.to_thread(self._find, wanted, viewer)
            elif listing in self._listings and self._listings[listing].viewer == viewer:
                found = self._listings[listing].found
            else:
                raise InvalidArgument(f'listing {listing} is not kept any more: begin again with listing 0')
            rows = await asyncio.to_thread(self._describe, found[offset : offset + PAGE])
            self._forget(listing)
            if offset + PAGE < len(found):
                self._keep(listing, found, viewer)
            return Page(rows, len(found), listing)

    def _keep(self, listing: int, found: list[Packed], viewer: Viewer) -> None:
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
        self._listings[listing] = _Kept(viewer, found, timer)

    def _forget(self, listing: int) -> None:
        if kept := self._listings.pop(listing, None):
            kept.timer.cancel()

    def _find(self, wanted: Filter, viewer: Viewer) -> list[Packed]:
        address, program = wanted.packed_address(), wanted.program and wanted.program.encode()

        def fits(pair: Pair) -> bool:
            client, server = pair
            one = client or server
            assert one
            local, local_port, remote, remote_port = self._ends.endpoints(one.flow)
            return (
                (viewer.netns is None or viewer.netns == self._ends.netns(one.flow))
                and (wanted.port is None or wanted.port in (local_port, remote_port))
                and (address is None or address in (local, remote))
                and (wanted.pid is None or any(end and end.pid == wanted.pid for end in pair))
                and (program is None or any(end and end.program.split(b'\0', 1)[0] == program for end in pair))
                and (wanted.target is None or self._target_of_slot(one.slot) == wanted.target)
                and (wanted.reason is None or wanted.reason in self._reasons_of(pair))
                and (wanted.path is None or wanted.path == _path(_state(pair), *self._reasons_of(pair)))
            )

        found = [pair for pair in pairs(self._ends, self._ends.read()) if fits(pair)]
        found.sort(key=lambda pair: -sum(end.redirected_bytes + end.tcp_bytes for end in pair if end))
        return [(self._pack(client), self._pack(server)) for client, server in found]

    def _describe(self, packed: list[Packed]) -> list[Connection]:
        found = [(self._unpack(client), self._unpack(server)) for client, server in packed]
        cgroups = {end.cgroup for pair in found for end in pair if end}
        if not cgroups <= self._paths.keys() and self._clock.time() - self._looked_at > _LOOK_AGAIN_AFTER_S:
            self._paths, self._looked_at = self._cgroup_paths(), self._clock.time()
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        rows = []
        for client, server in found:
            one = client or server
            assert one
            state, reasons = _state((client, server)), self._reasons_of((client, server))
            rows.append(
                Connection(
                    self._target_of_slot(one.slot),
                    self._ends.event(client) if client else None,
                    self._ends.event(server) if server else None,
                    *reasons,
                    client_cgroup=self._paths.get(client.cgroup, '') if client else '',
                    server_cgroup=self._paths.get(server.cgroup, '') if server else '',
                    path=_path(state, *reasons),
                    state=state,
                    age_ns=max(0, now - one.time_ns),
                )
            )
        return rows

    def _pack(self, end: RawEnd | None) -> bytes | None:
        return self._ends.pack(end) if end else None

    def _unpack(self, packed: bytes | None) -> RawEnd | None:
        return self._ends.unpack(packed) if packed else None

    def _reasons_of(self, pair: Pair) -> tuple[str, str]:
        reasons = [(end.marked or end.reason) if end else 0 for end in pair]
        client, server = (self._reasons[reason] if reason else '' for reason in reasons)
        if _state(pair) is not ConnectionState.JOINED:
            return client or server, server or client
        return client, server


def _is_privileged(viewer: Viewer) -> bool:
    return viewer.user == 0


def _state(pair: Pair) -> ConnectionState:
    states = [ConnectionState(end.state) for end in pair if end]
    return next((state for state in states if state is not ConnectionState.JOINED), ConnectionState.JOINED)


def _path(state: ConnectionState, client_reason: str, server_reason: str) -> str:
    if state is not ConnectionState.JOINED or (client_reason and server_reason):
        return 'tcp'
    return 'mixed' if client_reason or server_reason else 'redirect'
