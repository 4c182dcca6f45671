# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to connections, told to those who follow it, each by a socket of its own.

So a follower that reads slowly loses events of its own, and neither the bus nor the daemon keeps them for it.
"""

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import structlog

from sockaccel.bus import encoding, handover
from sockaccel.core import filters, words
from sockaccel.core.connection import Counter, Event
from sockaccel.core.listing import Viewer
from sockaccel.core.target import quote
from sockaccel.dbus.limits import Limit
from sockaccel.errors import InvalidArgument, NotPermitted

log = structlog.stdlib.get_logger()

# Of lines that wait for a follower: in the socket (the kernel counts its own overhead too), and here. 500 of each.
_SOCKET_BYTES = 128 * 1024
_MAXIMUM_WAITING = 256 * 1024


@dataclass(frozen=True)
class Wanted:
    """Which events a follower wants. None: any. reason: '' for those that have none."""

    target: str | None = None
    kind: str | None = None
    reason: str | None = None
    program: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, wanted: Mapping[str, Any], viewer: Viewer) -> Self:
        """From what a user gave. Raises InvalidArgument, naming what is wrong, and NotPermitted."""
        filters.check(wanted, fields(cls))
        chosen = cls(**wanted)
        kinds = words.EVENT_KINDS.values()
        if chosen.kind is not None and chosen.kind not in kinds:
            raise InvalidArgument(f'kind {quote(chosen.kind)} is none of {", ".join(kinds)}')
        if chosen.program is not None and not viewer.sees_programs:
            raise NotPermitted(
                'filter "program" needs what polkit does not give this user (org.sockaccel1.inspect)'
            )
        return chosen

    def fits(self, event: Event, target: str, reason: str) -> bool:
        return (
            (self.port is None or self.port in (event.flow.local_port, event.flow.remote_port))
            and self.target in (None, target)
            and self.kind in (None, words.EVENT_KINDS[event.kind])
            and self.reason in (None, reason)
            and self.program in (None, event.program)
        )


class Follower:
    """One end of a socket pair, to which lines are written as fast as they are read at the other.

    ended: called once the other end is closed.
    """

    def __init__(self, viewer: Viewer, wanted: Wanted, sock: socket.socket, ended: Callable[['Follower'], None]):
        self.viewer, self.wanted = viewer, wanted
        self._sock = sock
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._waiting = bytearray()
        # Events that were left out since the last line; whether that was logged.
        self._lost, self._told = 0, False
        self._flush_later: asyncio.Handle | None = None
        self._loop.add_reader(sock, self._hung_up)

    def put(self, line: bytes) -> None:
        """Write a line some time soon, or leave it out and count it."""
        note = self._note()
        if len(self._waiting) + len(note) + len(line) > _MAXIMUM_WAITING:
            self._lose()
            return
        self._lost = 0
        self._waiting += note + line
        if self._flush_later is None:
            self._flush_later = self._loop.call_soon(self._flush)

    def close(self) -> None:
        if self._flush_later:
            self._flush_later.cancel()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()

    def _note(self) -> bytes:
        return json.dumps({'lost': self._lost}).encode() + b'\n' if self._lost else b''

    def _lose(self) -> None:
        self._lost += 1
        if not self._told:
            self._told = True
            log.info(f'A client of uid {self.viewer.user} reads events slower than they happen and loses some')

    def _flush(self) -> None:
        try:
            sent = self._sock.send(self._waiting)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._ended(self)
            return
        del self._waiting[:sent]
        if not self._waiting and self._lost:
            # No event need come after those that were left out.
            self._waiting += self._note()
            self._lost = 0
        if self._waiting:
            self._loop.add_writer(self._sock, self._flush)
        else:
            self._loop.remove_writer(self._sock)
            self._flush_later = None

    def _hung_up(self) -> None:
        """Nobody has anything to say to us: who writes ends it too."""
        self._ended(self)


class Followers:
    """Everybody who follows the events."""

    def __init__(self) -> None:
        self._all: list[Follower] = []
        self._limit = Limit('subscriptions', 'end one first', each=8, privileged=32, together=64)

    def add(self, viewer: Viewer, wanted: Wanted) -> socket.socket:
        """The end to read from; the caller closes it. Raises LimitExceeded."""
        ours, theirs = handover.pair(self._limit, viewer.user)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        self._all.append(Follower(viewer, wanted, ours, self._end))
        return theirs

    def publish(self, event: Event, target: str, reason: Counter | None) -> None:
        """Tell an event to everybody who wants it and may know of it."""
        name = reason.name if reason else ''
        lines: dict[bool, bytes] = {}
        for follower in list(self._all):
            viewer = follower.viewer
            if not viewer.sees(event.flow.netns) or not follower.wanted.fits(event, target, name):
                continue
            line = lines.get(viewer.sees_programs)
            if line is None:
                row = encoding.event(event, target, reason, programs=viewer.sees_programs)
                line = lines[viewer.sees_programs] = json.dumps(row).encode() + b'\n'
            follower.put(line)

    def close(self) -> None:
        for follower in list(self._all):
            self._end(follower)

    def _end(self, follower: Follower) -> None:
        if follower in self._all:
            self._all.remove(follower)
            self._limit.give_back(follower.viewer.user)
            follower.close()
