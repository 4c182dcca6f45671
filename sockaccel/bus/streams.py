# SPDX-License-Identifier: GPL-2.0-or-later
"""Listings of every end, each written to a socket of its own as fast as it is read at the other end.

The walk waits for the reader, so that nothing but one part of it is ever in memory. Pairing the ends and choosing
among them is the reader's work: for 100,000 connections it takes longer than the walk.
"""

import asyncio
import json
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

import structlog

from sockaccel.bus import handover
from sockaccel.core import words
from sockaccel.core.ends import End, Layout
from sockaccel.core.listing import Sight, Viewer
from sockaccel.core.origins import unpack
from sockaccel.dbus.limits import Limit

log = structlog.stdlib.get_logger()

# How long a reader may take for a part.
_PATIENCE_S = 30.0


class Stream:
    """One listing: a line of JSON, then parts, each a line of JSON and the ends that it announces."""

    def __init__(self, sight: Sight, viewer: Viewer, sock: socket.socket) -> None:
        self.viewer = viewer
        self._sight = sight
        self._sock = sock
        self._named: dict[str, set[int]] = {'targets': set(), 'cgroups': set()}

    async def run(self) -> None:
        """Write all of it; the reader sees the end of the file where that was not possible."""
        try:
            with self._sock:
                parts = self._parts()
                while (part := await asyncio.to_thread(next, parts, None)) is not None:
                    async with asyncio.timeout(_PATIENCE_S):
                        await asyncio.get_running_loop().sock_sendall(self._sock, part)
        except TimeoutError:
            log.info(f'A client of uid {self.viewer.user} asked for all connections and does not read them: ended')
        except ConnectionError as exc:
            # Whoever has read enough has closed the other end.
            log.debug(f'uid {self.viewer.user} has ended a listing of all connections ({exc}), ignoring')
        except OSError as exc:
            log.warning(f'Cannot list all connections for uid {self.viewer.user} ({exc}), ignoring')

    def _parts(self) -> Iterator[bytes]:
        layout, number = self._sight.layout, 0
        yield _line(
            fields=_public(layout),
            reasons=self._sight.reasons,
            states=list(words.CONNECTION_STATES.values()),
            time_ns=time.clock_gettime_ns(time.CLOCK_MONOTONIC),
            programs=self.viewer.sees_programs,
        )
        for led in self._sight.origins(self.viewer):
            yield _line(ends=0, targets={}, cgroups={}, origins=unpack(led))
        for part in self._sight.parts(self.viewer):
            ends = len(part) // layout.size
            number += ends
            names = {
                'targets': self._new('targets', layout.column(part, 'slot')),
                'cgroups': self._new('cgroups', layout.column(part, 'cgroup')),
            }
            yield _line(ends=ends, **names) + part
        yield _line(total=number)

    def _new(self, kind: str, numbers: Iterable[int]) -> dict[int, str]:
        """The names that the reader has not got yet."""
        new = set(numbers) - self._named[kind] - {0}
        self._named[kind] |= new
        name = self._sight.target if kind == 'targets' else self._sight.cgroup
        return {number: name(number) for number in new}


class Streams:
    """All listings that are being read."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._limit = Limit(
            'listings that are being read', 'read one to its end first', each=2, privileged=8, together=8
        )
        self._running: set[asyncio.Task[None]] = set()

    def add(self, viewer: Viewer) -> socket.socket:
        """The end to read from; the caller closes it. Raises LimitExceeded."""
        ours, theirs = handover.pair(self._limit, viewer.user)
        theirs.shutdown(socket.SHUT_WR)
        task = asyncio.get_running_loop().create_task(Stream(self._sight, viewer, ours).run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _task: self._limit.give_back(viewer.user))
        return theirs

    def close(self) -> None:
        """Whoever reads finds the end of the file."""
        for task in self._running:
            task.cancel()


def _public(layout: Layout) -> list[tuple[str, str]]:
    """What readers may know of: the rest is there and has no name."""
    return [(name if name in End._fields else '', code) for name, code in layout.fields]


def _line(**values: Any) -> bytes:
    return json.dumps(values).encode() + b'\n'
