# SPDX-License-Identifier: GPL-2.0-or-later
"""All connections, read from the daemon part by part; put together, chosen and sorted here."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from sockaccel.core.ends import Layout, Pair, Pairs, moved
from sockaccel.core.listing import Busiest, Filter
from sockaccel.core.origins import Origin
from sockaccel.core.rows import NOWHERE, Row, Wording, row
from sockaccel.ctl.client import Client, NotRunning

# Of the socket's data that waits to be looked at.
_BUFFERED = 1024 * 1024


@dataclass
class Listing:
    """What the daemon has said so far of the listing. Implements sockaccel.core.rows.Names."""

    layout: Layout
    reasons: list[str]
    time_ns: int
    programs: bool
    targets: dict[int, str] = field(default_factory=dict)
    cgroups: dict[int, str] = field(default_factory=dict)
    led: dict[int, Origin] = field(default_factory=dict)
    is_complete: bool = False

    def __post_init__(self) -> None:
        self._wording = Wording(self)

    def target(self, slot: int) -> str:
        return self.targets.get(slot, '')

    def cgroup(self, number: int) -> str:
        return self.cgroups.get(number, '')

    def origin(self, cookie: int) -> Origin:
        return self.led.get(cookie, NOWHERE)

    def row(self, pair: Pair) -> Row:
        """A connection as users read it."""
        return row(pair, self._wording, self.time_ns)


async def parts(client: Client, wanted: Filter) -> AsyncIterator[tuple[Listing, list[Pair]]]:
    """The wanted connections as the daemon's walk goes, in no order.

    Raises Refused, NotRunning, and NotPermitted where the filter asks what the user may not know.
    """
    fd = await client.call('StreamEnds', 'a{sv}', {})
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd), limit=_BUFFERED)
    try:
        said = await _line(reader)
        listing = Listing(Layout(said['fields']), said['reasons'], said['time_ns'], said['programs'])
        wanted.permit(programs=listing.programs)
        wants, pairs = wanted.chooser(listing), Pairs(listing.layout)
        while 'total' not in (said := await _line(reader)):
            origins = said.get('origins', {})
            listing.led |= {int(cookie): (address, port) for cookie, (address, port) in origins.items()}
            listing.targets |= _by_number(said['targets'])
            listing.cgroups |= _by_number(said['cgroups'])
            part = await _exactly(reader, said['ends'] * listing.layout.size)
            yield listing, list(filter(wants, pairs.add(part)))
        listing.is_complete = True
        yield listing, list(filter(wants, pairs.rest()))
    finally:
        writer.close()


async def busiest(client: Client, wanted: Filter, limit: int) -> tuple[list[Row], int]:
    """Up to `limit` connections, the busiest first, and how many there are. Raises what `parts` raises."""
    listing, pairs, total = await busiest_pairs(client, wanted, limit)
    return list(map(listing.row, pairs)), total


async def busiest_pairs(client: Client, wanted: Filter, limit: int) -> tuple[Listing, list[Pair], int]:
    """The same as pairs, with what makes rows of them."""
    found, listing = Busiest[Pair](limit), None
    async for seen, pairs in parts(client, wanted):
        found.add((moved(pair), pair) for pair in pairs)
        listing = seen
    # There is at least the last part, which may be empty.
    assert listing
    return listing, found.found(), found.total


def _by_number(names: dict[str, str]) -> dict[int, str]:
    """JSON has no numbers for keys."""
    return {int(number): name for number, name in names.items()}


async def _line(reader: asyncio.StreamReader) -> dict[str, Any]:
    line = await reader.readline()
    if not line.endswith(b'\n'):
        raise _ended()
    said: dict[str, Any] = json.loads(line)
    return said


async def _exactly(reader: asyncio.StreamReader, size: int) -> bytes:
    try:
        return await reader.readexactly(size)
    except asyncio.IncompleteReadError as exc:
        raise _ended() from exc


def _ended() -> NotRunning:
    return NotRunning('the daemon ended the list of connections early', 'see why: journalctl -u sockaccel')
