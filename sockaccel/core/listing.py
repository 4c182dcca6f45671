# SPDX-License-Identifier: GPL-2.0-or-later
"""The connections that a target covers, put together from their two ends. There can be a hundred thousand."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from sockaccel.core.connection import ConnectionState, Counter, Event, pack_address
from sockaccel.core.target import quote
from sockaccel.errors import InvalidArgument
from sockaccel.kernel.layout import EVENT, FLOW, Raw, event_of

PAGE = 256
# A listing of 100,000 connections is 50 MB.
_MAXIMUM_LISTINGS = 2
_KEPT_FOR_S = 30.0
# Cgroups come and go; one that is unknown is looked for this often.
_LOOK_AGAIN_AFTER_S = 1.0

PATHS = ('redirect', 'tcp', 'mixed')


@dataclass(frozen=True)
class Filter:
    """Which connections; what is None, or empty, is not asked for. An end's reason, program, port or address."""

    target: str | None = None
    path: str | None = None
    reason: str | None = None
    program: str | None = None
    address: str | None = None
    port: int | None = None
    pid: int | None = None

    @classmethod
    def parse(cls, wanted: Mapping[str, Any]) -> Self:
        """From a dictionary of a user's. Raises InvalidArgument, naming what is wrong."""
        types = {field.name: int if 'int' in str(field.type) else str for field in fields(cls)}
        for name, value in wanted.items():
            if name not in types:
                raise InvalidArgument(f'filter {quote(name)} is unknown, there are {", ".join(types)}')
            if type(value) is not types[name]:
                raise InvalidArgument(f'filter "{name}" is not a {"number" if types[name] is int else "string"}')
        chosen = cls(**wanted)
        if chosen.path is not None and chosen.path not in PATHS:
            raise InvalidArgument(f'path {quote(chosen.path)} is none of {", ".join(PATHS)}')
        chosen.packed_address()
        return chosen

    def packed_address(self) -> bytes | None:
        """The address as `struct flow` has it. Raises InvalidArgument."""
        if self.address is None:
            return None
        try:
            return pack_address(self.address)
        except ValueError as exc:
            raise InvalidArgument(f'address {quote(self.address)} is not an IP address') from exc


@dataclass(frozen=True)
class Connection:
    """Both ends; one of them is None where it is not known or gone already.

    state: that of the end that has come less far; reasons: per end why the last message that it sent went by TCP,
    '' if it was redirected or there was none.
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
    """total: how many connections the listing has; listing: its number, to go on with."""

    connections: list[Connection]
    total: int
    listing: int


Pair = tuple[Raw | None, Raw | None]
# The same in a third of the memory.
Packed = tuple[bytes | None, bytes | None]


def by_flow(data: bytes) -> dict[bytes, Raw]:
    """The ends in a walk's output, where each may occur more than once."""
    rows = map(Raw._make, EVENT.iter_unpack(data))
    return {raw.flow: raw for raw in rows}


def pairs(data: bytes) -> list[Pair]:
    """Client and server of each connection in a walk's output."""
    ends = by_flow(data)
    found: list[Pair] = []
    for flow, raw in ends.items():
        other = ends.get(_mirrored(flow))
        if raw.active:
            # Of a missed connection it may be unknown which end was which.
            if not (other and other.active and raw.flow > other.flow):
                found.append((raw, other))
        elif other is None or not other.active:
            found.append((None, raw))
    return found


def _mirrored(flow: bytes) -> bytes:
    netns, local, remote, local_port, remote_port, pad = FLOW.unpack(flow)
    return FLOW.pack(netns, remote, local, remote_port, local_port, pad)


class Connections:
    """Lists them in a thread, a page at a time; what was listed is kept a while for the next page."""

    def __init__(
        self,
        read_connections: Callable[[], bytes],
        cgroup_paths: Callable[[], dict[int, str]],
        target_of_slot: Callable[[int], str],
        counters: list[Counter],
    ) -> None:
        self._read_connections = read_connections
        self._cgroup_paths = cgroup_paths
        self._target_of_slot = target_of_slot
        self._reasons = [counter.name for counter in counters]
        self._paths: dict[int, str] = {}
        self._looked = 0.0
        # The one whose last page was asked for longest ago first; each with what ends it.
        self._listings: dict[int, tuple[list[Packed], asyncio.TimerHandle]] = {}
        self._last = 0
        self._one_at_a_time = asyncio.Lock()

    async def page(self, wanted: Filter, listing: int = 0, offset: int = 0) -> Page:
        """Up to PAGE connections from offset on, the busiest first.

        listing: 0 to look anew, or the number of the page before. Raises InvalidArgument for one that is gone.
        """
        async with self._one_at_a_time:
            if not listing:
                self._last += 1
                listing = self._last
                found = await asyncio.to_thread(self._find, wanted)
            elif listing in self._listings:
                found, _timer = self._listings[listing]
            else:
                raise InvalidArgument(f'listing {listing} is not kept any more: begin again with listing 0')
            rows = await asyncio.to_thread(self._describe, found[offset : offset + PAGE])
            self._forget(listing)
            if offset + PAGE < len(found):
                self._keep(listing, found)
            return Page(rows, len(found), listing)

    async def joined_ends(self, count: int) -> tuple[list[tuple[Event, str]], int]:
        """Up to so many joined ends with the names of their targets, and how many there are."""
        async with self._one_at_a_time:
            found = await asyncio.to_thread(self._joined)
            return [(event_of(raw), self._target_of_slot(raw.slot)) for raw in found[:count]], len(found)

    def _joined(self) -> list[Raw]:
        rows = map(Raw._make, EVENT.iter_unpack(self._read_connections()))
        return list({raw.flow: raw for raw in rows if raw.state == ConnectionState.JOINED}.values())

    def _keep(self, listing: int, found: list[Packed]) -> None:
        """From now on: all pages of a hundred thousand connections may take longer than one listing is kept."""
        while len(self._listings) >= _MAXIMUM_LISTINGS:
            self._forget(next(iter(self._listings)))
        timer = asyncio.get_running_loop().call_later(_KEPT_FOR_S, self._forget, listing)
        self._listings[listing] = found, timer

    def _forget(self, listing: int) -> None:
        if kept := self._listings.pop(listing, None):
            kept[1].cancel()

    def _find(self, wanted: Filter) -> list[Packed]:
        address, program = wanted.packed_address(), wanted.program and wanted.program.encode()

        def fits(pair: Pair) -> bool:
            client, server = pair
            one = client or server
            assert one
            _netns, local, remote, local_port, remote_port, _pad = FLOW.unpack(one.flow)
            return (
                (wanted.port is None or wanted.port in (local_port, remote_port))
                and (address is None or address in (local, remote))
                and (wanted.pid is None or any(end and end.pid == wanted.pid for end in pair))
                and (program is None or any(end and end.program.split(b'\0', 1)[0] == program for end in pair))
                and (wanted.target is None or self._target_of_slot(one.slot) == wanted.target)
                and (wanted.reason is None or wanted.reason in self._reasons_of(pair))
                and (wanted.path is None or wanted.path == _path(_state(pair), *self._reasons_of(pair)))
            )

        found = [pair for pair in pairs(self._read_connections()) if fits(pair)]
        found.sort(key=lambda pair: -sum(end.redirected_bytes + end.tcp_bytes for end in pair if end))
        return [(_pack(client), _pack(server)) for client, server in found]

    def _describe(self, packed: list[Packed]) -> list[Connection]:
        found = [(_unpack(client), _unpack(server)) for client, server in packed]
        cgroups = {end.cgroup for pair in found for end in pair if end}
        if not cgroups <= self._paths.keys() and time.monotonic() - self._looked > _LOOK_AGAIN_AFTER_S:
            self._paths, self._looked = self._cgroup_paths(), time.monotonic()
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        rows = []
        for client, server in found:
            one = client or server
            assert one
            state, reasons = _state((client, server)), self._reasons_of((client, server))
            rows.append(
                Connection(
                    self._target_of_slot(one.slot),
                    client and event_of(client),
                    server and event_of(server),
                    *reasons,
                    client_cgroup=self._paths.get(client.cgroup, '') if client else '',
                    server_cgroup=self._paths.get(server.cgroup, '') if server else '',
                    path=_path(state, *reasons),
                    state=state,
                    age_ns=max(0, now - one.time_ns),
                )
            )
        return rows

    def _reasons_of(self, pair: Pair) -> tuple[str, str]:
        reasons = [(end.marked or end.reason) if end else 0 for end in pair]
        client, server = (self._reasons[reason] if reason else '' for reason in reasons)
        if _state(pair) is not ConnectionState.JOINED:
            return client or server, server or client
        return client, server


def _pack(end: Raw | None) -> bytes | None:
    return EVENT.pack(*end) if end else None


def _unpack(end: bytes | None) -> Raw | None:
    return Raw._make(EVENT.unpack(end)) if end else None


def _state(pair: Pair) -> ConnectionState:
    states = [ConnectionState(end.state) for end in pair if end]
    return next((state for state in states if state is not ConnectionState.JOINED), ConnectionState.JOINED)


def _path(state: ConnectionState, client_reason: str, server_reason: str) -> str:
    if state is not ConnectionState.JOINED or (client_reason and server_reason):
        return 'tcp'
    return 'mixed' if client_reason or server_reason else 'redirect'
