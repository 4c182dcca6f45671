# SPDX-License-Identifier: GPL-2.0-or-later
"""Walks: over the ends, for sweeps and listings, and over open files, for searches and audits.

A map says what a walk does, so one of each kind can run at a time. Those over the ends take turns part by part.
"""

import contextlib
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from sockaccel.core.connection import Event, EventKind
from sockaccel.core.opensocket import OpenSocket
from sockaccel.kernel import libbpf, looks
from sockaccel.kernel.abi import (
    EVENT,
    KEPT,
    LISTENER,
    LISTENER_KEY,
    MAX_LISTED,
    MAX_WALKED,
    PAIR_KEY,
    SETTINGS,
    KeptRecord,
    ListenerRecord,
    Look,
    SettingsRecord,
    Walk,
)
from sockaccel.kernel.clients import Clients
from sockaccel.kernel.records import event_from

_U32 = struct.Struct('=I')
# How soon a walk that interrupted itself is repeated if ends have come or gone: it may have missed some.
_REPEAT_NS = 1_000_000_000


@dataclass(frozen=True)
class SweepResult:
    """Which marked ends a sweep evicted, and which drain because they hold unread bytes or are in a call.

    next_due_s: when another sweep is needed, in seconds of CLOCK_MONOTONIC; None if no end waits for one.
    ends_turned_away, listeners_turned_away: for how many there was no place since the maps were made.
    """

    evicted: list[Event]
    draining: list[Event]
    next_due_s: float | None
    ends_turned_away: int
    listeners_turned_away: int


class Outcome(NamedTuple):
    """What a walk wrote to `struct settings`.

    due_ns: when the next end must be judged or tried again, on CLOCK_MONOTONIC, 0 if there is none; leaving: how
    many members are marked; found, found_left: how many ends it met, and of these how many stay with TCP for good;
    broken: how many of them were found to have missed redirected bytes; listed: how many entries of sa_listing are
    filled; blocking: how many candidates wait to be seen reading with MSG_DONTWAIT; unknown_owners: how many wait
    for a search for sockets; unseen_clients, found_clients: see sockaccel.kernel.clients.
    """

    due_ns: int
    leaving: int
    broken: int
    found: int
    found_left: int
    listed: int
    blocking: int
    unknown_owners: int
    unseen_clients: int
    found_clients: int


class Census(NamedTuple):
    """How many ends the last walk that judged met, and what `struct kept` had counted when it began."""

    found: int
    found_left: int
    counted: int
    counted_left: int


class Watch(Protocol):
    def __call__(self, *, waiting: bool) -> None: ...


class Walks:
    """What the two iterators do, and the settings that the programs read with each walk.

    fds: of programs and maps by name; this object closes them, so that no walk of another thread is surprised.
    remembers: whether what a program was seen to do keeps out the next connections of its executable. The
    constructor raises OSError.
    """

    def __init__(self, fds: dict[str, int], events_per_second: int, *, remembers: bool) -> None:
        self._fds = fds
        self._events_per_second = events_per_second
        self._remembers = remembers
        # A listing walks in another thread, and so does an audit.
        self._walking = threading.Lock()
        self._searching = threading.Lock()
        before = self._settings()
        self._census = Census(before.last_found, before.last_found_left, before.counted, before.counted_left)
        self._search = before.search
        # The id of the cgroup that the programs are attached to.
        self.root = before.root
        self._clients = Clients()
        self._prepare(Walk.LIST)

    def close(self) -> None:
        """Close all fds once no walk uses them."""
        with self._searching, self._walking:
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()

    def tune(self, events_per_second: int, *, remembers: bool) -> None:
        """Change how many events all CPUs together may report a second, and whether programs are remembered."""
        self._events_per_second = events_per_second
        self._remembers = remembers
        with self._walking:
            self._prepare(Walk.LIST)

    def find_sockets(self) -> None:
        """Remember listeners that are older than sockaccel, and make connections candidates that are so too.

        Raises OSError.
        """
        with self._searching:
            # An earlier search that failed, or an audit that was killed, may have left entries.
            libbpf.map_clear(self._fds['sa_found'], PAIR_KEY.size)
            with self._walking:
                self._search = (self._search + 1) % (1 << 32)
                self._prepare(Walk.LIST)
            try:
                # Ends of targets; then their other ends, which need not belong to one; then those that met now.
                for walk in (Look.SEARCH, Look.ADOPT, Look.ADOPT_LAST):
                    looks.prepare(self._fds, walk)
                    for _nothing in libbpf.iterate(self._fds['bpf_iter__task_file']):
                        pass
                    if not libbpf.map_keys(self._fds['sa_found'], PAIR_KEY.size):
                        break
            finally:
                looks.prepare(self._fds, Look.SEARCH)
            libbpf.map_clear(self._fds['sa_found'], PAIR_KEY.size)
        self._forget_closed_listeners()

    def look(self, cgroup_id: int) -> Iterator[OpenSocket]:
        """See sockaccel.kernel.looks.look(). From any thread; nothing once this object is closed. OSError."""
        with self._searching:
            if self._fds:
                yield from looks.look(self._fds, cgroup_id)

    def _forget_closed_listeners(self) -> None:
        """Remove the listeners that the last search did not find and nobody has told of since.

        One that it could not find, such as one whose fd is on its way to another process, is told of no more until
        the next search: connections from outside its target stay with TCP.
        """
        for key in libbpf.map_keys(self._fds['sa_own_listeners'], LISTENER_KEY.size):
            value = libbpf.map_lookup(self._fds['sa_own_listeners'], key, LISTENER.size)
            if value and ListenerRecord._make(LISTENER.unpack(value)).search != self._search:
                libbpf.map_delete(self._fds['sa_own_listeners'], key)

    def list_ends(self) -> Iterator[bytes]:
        """Every end of a covered connection, `struct event` after `struct event`, in parts of any size.

        Between two parts other walks can run, however long that is. An end is there twice, or is left out, where
        others come or go meanwhile: the kernel finds its place again by counting. May be called, and iterated,
        from any thread. Raises OSError.
        """
        with self._walking:
            if not self._fds:
                return
            listing = mmap.mmap(self._fds['sa_listing'], MAX_LISTED * EVENT.size, prot=mmap.PROT_READ)
            walk = self._iterate()
        with listing, contextlib.closing(walk):
            is_over = False
            while not is_over:
                with self._walking:
                    if not self._fds:
                        return
                    self._prepare(Walk.LIST)
                    # It interrupts itself when sa_listing is full.
                    is_over = next(walk, None) is None
                    part = listing[: self._outcome().listed * EVENT.size]
                yield part

    def sweep(self, watch: Watch, abort: Callable[[], None]) -> SweepResult:
        """Let suitable candidates join, and evict the members that must leave and hold nothing unread.

        The others stay marked and are in `draining`. watch: is told whether a candidate waits to be seen
        reading with MSG_DONTWAIT. abort: called if there are connections to abort. Raises OSError.
        """
        libbpf.map_update(self._fds['sa_sweep_wanted'], _U32.pack(0), _U32.pack(0))
        with self._walking:
            due = [self._judge()]
            judged = self._outcome()
            watch(waiting=judged.blocking > 0)
            if judged.broken:
                abort()
            left = []
            if judged.leaving:
                # Afterwards no verdict runs any more that began before the marks were there.
                libbpf.wait_for_programs(self._fds['sa_grace'], self._fds['sa_window'])
                left = _unpack(b''.join(self._walk(Walk.EVICT)))
                due.append(self._outcome().due_ns)
            # Puts the census in force.
            self._prepare(Walk.LIST)
        due.append(self._clients.due_ns(judged.unseen_clients))
        if judged.unknown_owners or self._clients.are_due(judged.unseen_clients):
            # Before they are judged again.
            self.find_sockets()
            self._clients.were_looked_for(self._outcome().found_clients)
        due_ns = min(filter(None, due), default=0)
        kept = self._kept()
        evicted = [event for event in left if event.kind is EventKind.EVICTED]
        draining = [event for event in left if event.kind is not EventKind.EVICTED]
        next_due_s = due_ns / 1e9 if due_ns else None
        return SweepResult(evicted, draining, next_due_s, kept.ends_turned_away, kept.listeners_turned_away)

    def _judge(self) -> int:
        """Let a walk judge every end; returns when another one is due, in ns of CLOCK_MONOTONIC, 0 for never."""
        kept = self._kept()
        # It prints nothing: each part is an interruption.
        interrupted = len(list(self._walk(Walk.JUDGE)))
        outcome, before = self._outcome(), self._census
        self._census = Census(outcome.found, outcome.found_left, kept.ends, kept.left)
        if interrupted and outcome.found != before.found:
            # The kernel finds its place again by counting, and misses an end for each that is gone before it.
            again = time.monotonic_ns() + _REPEAT_NS
            return min(again, outcome.due_ns or again)
        return outcome.due_ns

    def _prepare(self, walk: Walk) -> None:
        """Write what the next walk shall do, and the daemon's settings with it."""
        settings = SettingsRecord(
            events_per_second=self._events_per_second,
            walk=walk,
            next_due_ns=0,
            leaving=0,
            found=0,
            found_left=0,
            last_found=self._census.found,
            last_found_left=self._census.found_left,
            counted=self._census.counted,
            counted_left=self._census.counted_left,
            listed=0,
            rest_of_part=MAX_WALKED,
            search=self._search,
            blocking=0,
            remembers=self._remembers,
            unknown_owners=0,
            root=self.root,
            unseen_clients=0,
            found_clients=0,
            broken=0,
            pad=0,
        )
        libbpf.map_update(self._fds['sa_settings'], _U32.pack(0), SETTINGS.pack(*settings))

    def _settings(self) -> SettingsRecord:
        value = libbpf.map_lookup(self._fds['sa_settings'], _U32.pack(0), SETTINGS.size)
        assert value is not None
        return SettingsRecord._make(SETTINGS.unpack(value))

    def _outcome(self) -> Outcome:
        now = self._settings()
        return Outcome(
            now.next_due_ns, now.leaving, now.broken, now.found, now.found_left, now.listed, now.blocking,
            now.unknown_owners, now.unseen_clients, now.found_clients,
        )  # fmt: skip

    def _kept(self) -> KeptRecord:
        value = libbpf.map_lookup(self._fds['sa_kept'], _U32.pack(0), KEPT.size)
        assert value is not None
        return KeptRecord._make(KEPT.unpack(value))

    def _walk(self, walk: Walk) -> Iterator[bytes]:
        """Yields what libbpf.iterate() does."""
        self._prepare(walk)
        return self._iterate()

    def _iterate(self) -> Generator[bytes, None, None]:
        return libbpf.iterate(self._fds['bpf_iter__bpf_sk_storage_map'], self._fds['sa_ends'])


def _unpack(printed: bytes) -> list[Event]:
    events = [event_from(printed[at : at + EVENT.size]) for at in range(0, len(printed), EVENT.size)]
    # The kernel shows an end that did not fit into one buffer again in the next; the later record holds.
    return list({event.cookie: event for event in events}.values())
