# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel side while the daemon runs: what the core asks, done with BPF programs, maps, a link and walks."""

import contextlib
import errno
import mmap
import os
import shlex
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sockaccel.core.connection import Counter, Event, EventKind, pack_address
from sockaccel.core.limits import MAX_CGROUPS, MAX_SERVED, MAX_TARGETS
from sockaccel.core.opensocket import OpenSocket
from sockaccel.core.policy import Policy
from sockaccel.core.protocols import Urgency
from sockaccel.core.rules import Rule
from sockaccel.errors import KernelRefused, LimitExceeded
from sockaccel.kernel import libbpf, loader, looks
from sockaccel.kernel.abi import (
    EVENT,
    KEPT,
    LISTENER,
    LISTENER_KEY,
    MAX_LISTED,
    MAX_WALKED,
    PAIR_KEY,
    RULE,
    RULES,
    SETTINGS,
    TARGET,
    KeptRecord,
    ListenerRecord,
    Look,
    SettingsRecord,
    TargetFlag,
    Walk,
)
from sockaccel.kernel.adoption import Objects
from sockaccel.kernel.records import event_from
from sockaccel.kernel.watched import RECV_WATCHER, WAIT_WATCHER
from sockaccel.kernel.watchers import Watchers

_U32 = struct.Struct('=I')
_U64 = struct.Struct('=Q')
# asm-generic/socket.h
_SO_NETNS_COOKIE = 71
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
    listed: how many entries of sa_listing are filled; blocking: how many candidates wait to be seen reading with
    MSG_DONTWAIT; unknown_owners: how many wait for a search for sockets.
    """

    due_ns: int
    leaving: int
    found: int
    found_left: int
    listed: int
    blocking: int
    unknown_owners: int


class Census(NamedTuple):
    """How many ends the last walk that judged met, and what `struct kept` had counted when it began."""

    found: int
    found_left: int
    counted: int
    counted_left: int


class Kernel:
    """Implements sockaccel.core.protocols.Kernel with maps, a link and walks.

    The constructor puts the programs of `objects` in force, for the sockets of an earlier daemon too. It raises
    OSError where the kernel refuses that. unneeded: watchers that would see nothing that matters here. remembers:
    whether what a program was seen to do keeps out the next connections of its executable.
    """

    def __init__(
        self,
        objects: Objects,
        counters: list[Counter],
        events_per_second: int,
        unneeded: frozenset[str] = frozenset(),
        *,
        remembers: bool = True,
    ) -> None:
        self._objects = objects
        self._fds = objects.fds
        self._counters = counters
        self._cpus = libbpf.possible_cpus()
        self._events_per_second = events_per_second
        self._remembers = remembers
        self._links = objects.cgroup_links
        self._watchers = Watchers(objects.fds, objects.watcher_links, objects, unneeded)
        self._ring: libbpf.RingBuffer | None = None
        # A map says what a walk does, so only one can run at a time. A listing walks in another thread.
        self._walking = threading.Lock()
        # The same for the walk over open files, which an audit takes in another thread.
        self._searching = threading.Lock()
        before = self._settings()
        self._census = Census(before.last_found, before.last_found_left, before.counted, before.counted_left)
        self._search = before.search
        self._prepare(Walk.LIST)
        # An earlier process may have been killed during an audit.
        looks.want_calls(self._fds, wanted=False)
        libbpf.attach_map(self._fds['sockaccel_stub'], self._fds['sa_members'], libbpf.BPF_SK_MSG_VERDICT)
        libbpf.map_update(self._fds['sa_verdict'], _U32.pack(0), _U32.pack(self._fds['sockaccel_msg']))
        for name, link in self._links.items():
            if libbpf.link_cgroup(link):
                libbpf.replace_program(link, self._fds[name])
        if self._links:
            # One on demand too, so that none of the reads that it counts is missed.
            self._watchers.attach(objects.replaced_watchers)
        # Closes the watchers that were replaced, and not before: what nobody sees goes by TCP.
        objects.keep()

    def release(self) -> None:
        """Keep no object for the next process. Members go on by TCP, and lose no byte."""
        self.detach()
        self._objects.drop()

    def close(self) -> None:
        """Close all fds. The store keeps what it has for the next process."""
        self._close_links()
        self._watchers.close()
        if self._ring:
            self._ring.close()
            self._ring = None
        with self._searching, self._walking:
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()

    def listen(self, receive: Callable[[Event], None]) -> int:
        """Let `consume()` hand each event to `receive`. Returns the fd that is readable when there are events."""
        self._ring = libbpf.RingBuffer(self._fds['sa_events'], lambda data: receive(event_from(data)))
        return self._ring.fd

    def tune(self, events_per_second: int, *, remembers: bool) -> None:
        """Change how many events all CPUs together may report a second, and whether programs are remembered."""
        self._events_per_second = events_per_second
        self._remembers = remembers
        with self._walking:
            self._prepare(Walk.LIST)

    def consume(self) -> None:
        """Hand out the events that are there."""
        if self._ring:
            self._ring.consume()

    def sweep_wanted(self) -> Urgency:
        """How urgently a sweep is wanted. Whoever wanted one may have found no room for an event."""
        value = libbpf.map_lookup(self._fds['sa_sweep_wanted'], _U32.pack(0), _U32.size)
        assert value is not None
        return Urgency(_U32.unpack(value)[0])

    def attach(self, cgroup: int) -> bool:
        """Let new connections of a cgroup and all below it be covered. Returns False if that was so already.

        The watchers are attached with it, and detached by `detach()`.

        cgroup: fd of its directory. An earlier cgroup is watched no more. Raises KernelRefused.
        """
        here = os.fstat(cgroup).st_ino
        attached = {name for name, link in self._links.items() if libbpf.link_cgroup(link) == here}
        if attached == loader.CGROUP_PROGRAMS.keys():
            self._watchers.attach()
            return False
        links: dict[str, int] = {}
        try:
            for name, at in loader.CGROUP_PROGRAMS.items():
                links[name] = libbpf.attach_cgroup(self._fds[name], cgroup, at)
        except OSError as exc:
            for link in links.values():
                os.close(link)
            path = os.readlink(f'/proc/self/fd/{cgroup}')
            hint = 'is there enough memory?'
            if exc.errno == errno.EPERM:
                hint = (
                    'a sock_ops or sock_release program of somebody else is attached there or above without '
                    f'"multi"; see "bpftool cgroup show {shlex.quote(path)}"'
                )
            raise KernelRefused(f'cannot attach to cgroup "{path}" ({exc.strerror}): {hint}') from exc
        self._drop_links()
        self._links = links
        self._objects.keep_links(links)
        self._watchers.attach()
        return True

    def detach(self) -> None:
        """Let no new connection be covered. Candidates are forgotten: nobody reports any more when they close."""
        self._watchers.detach()
        if self._links:
            self._drop_links()
            self._wait_for_programs()
            libbpf.map_clear(self._fds['sa_peers'], PAIR_KEY.size)

    def _drop_links(self) -> None:
        if self._links:
            self._objects.drop_links()
        self._close_links()

    def _close_links(self) -> None:
        for link in self._links.values():
            os.close(link)
        self._links = {}

    def set_target(self, slot: int, generation: int, policy: Policy | None) -> None:
        """Write a slot; without a policy its target is off. Ends of another generation belong to no target."""
        flags, join_after_ns, heartbeat_ns = TargetFlag(0), 0, 0
        if policy:
            self._set_rules(slot, policy.rules)
            flags, join_after_ns = TargetFlag.ON, int(policy.join_after_s * 1e9)
            heartbeat_ns = policy.heartbeat_seconds * 1_000_000_000
            if policy.blocking_readers:
                flags |= TargetFlag.BLOCKING_READERS
            if policy.other_namespaces:
                flags |= TargetFlag.OTHER_NAMESPACES
            if policy.adopt_connections:
                flags |= TargetFlag.ADOPTS
            # If it is loaded and cannot be attached, nothing is evidence, and all goes by TCP.
            if RECV_WATCHER in self._fds:
                flags |= TargetFlag.RECV_WATCHED
        packed = TARGET.pack(generation, flags, join_after_ns, heartbeat_ns)
        libbpf.map_update(self._fds['sa_targets'], _U32.pack(slot), packed)

    def _set_rules(self, slot: int, rules: Sequence[Rule]) -> None:
        """Put rules in force for connections that are made from now on. rules: at most MAX_RULES."""
        key = _U32.pack(slot)
        if not rules:
            libbpf.map_delete(self._fds['sa_rules'], key)
            return
        packed = b''.join(
            RULE.pack(rule.kind, rule.exclude, rule.first, rule.last, rule.address, rule.mask) for rule in rules
        )
        libbpf.map_update(self._fds['sa_rules'], key, packed.ljust(RULES.size, b'\0'))

    def target_slots(self) -> list[tuple[int, bool]]:
        """Generation of every slot, and whether its target is on, in their order."""
        return [(generation, bool(flags)) for generation, flags in map(self._target, range(MAX_TARGETS))]

    def _target(self, slot: int) -> tuple[int, int]:
        value = libbpf.map_lookup(self._fds['sa_targets'], _U32.pack(slot), TARGET.size)
        assert value is not None
        generation, flags, *_rest = TARGET.unpack(value)
        return generation, flags

    def covered(self) -> dict[int, int]:
        """The slot of each cgroup that `cover()` added, by the cgroup's id."""
        found = {}
        for key in libbpf.map_keys(self._fds['sa_cgroups'], _U64.size):
            value = libbpf.map_lookup(self._fds['sa_cgroups'], key, _U32.size)
            if value:
                found[_U64.unpack(key)[0]] = _U32.unpack(value)[0]
        return found

    def cover(self, cgroup_id: int, slot: int) -> None:
        """Let a cgroup and all below it belong to the target in a slot. Raises LimitExceeded, KernelRefused."""
        self._add('sa_cgroups', _U64.pack(cgroup_id), slot, f'cgroups of targets, {MAX_CGROUPS}')

    def uncover(self, cgroup_id: int) -> None:
        """Undo `cover()`; a cgroup that was not covered is no error."""
        libbpf.map_delete(self._fds['sa_cgroups'], _U64.pack(cgroup_id))

    def serve(self, listeners: Iterable[tuple[str, int]], slot: int) -> None:
        """Let listeners serve the target in a slot, whoever opened them. Raises LimitExceeded, KernelRefused.

        listeners: address and port each, in the network namespace of this process.
        """
        for key in _listener_keys(listeners):
            self._add('sa_served', key, slot, f"listeners of targets' socket units, {MAX_SERVED}")

    def _add(self, name: str, key: bytes, slot: int, limit: str) -> None:
        try:
            libbpf.map_update(self._fds[name], key, _U32.pack(slot))
        except OSError as exc:
            if exc.errno == errno.E2BIG:
                raise LimitExceeded(f'the limit of {limit}, is reached: disable a target first') from exc
            raise KernelRefused(f'cannot write to the map "{name}" ({exc.strerror})') from exc

    def serve_no_more(self, listeners: Iterable[tuple[str, int]]) -> None:
        """Undo `serve()`; a listener that served no target is no error."""
        for key in _listener_keys(listeners):
            libbpf.map_delete(self._fds['sa_served'], key)

    def serve_nobody(self) -> None:
        """Undo every `serve()`, those of an earlier process too."""
        libbpf.map_clear(self._fds['sa_served'], LISTENER_KEY.size)

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

    def watch_calls(self, *, wanted: bool) -> None:
        """Let audits see what programs do with sockets that no target covers, or end that. OSError."""
        if self._fds:
            looks.want_calls(self._fds, wanted=wanted)
            self._watchers.serve_audits(wanted=wanted)

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

    def sweep(self) -> SweepResult:
        """Let suitable candidates join, and evict the members that must leave and hold nothing unread.

        The others stay marked and are in `draining`. Raises OSError.
        """
        libbpf.map_update(self._fds['sa_sweep_wanted'], _U32.pack(0), _U32.pack(0))
        with self._walking:
            due = [self._judge()]
            judged = self._outcome()
            if self._links:
                self._watchers.demand(WAIT_WATCHER, needed=judged.blocking > 0)
            left = []
            if judged.leaving:
                # Afterwards no verdict runs any more that began before the marks were there.
                self._wait_for_programs()
                left = _unpack(b''.join(self._walk(Walk.EVICT)))
                due.append(self._outcome().due_ns)
            # Puts the census in force.
            self._prepare(Walk.LIST)
        if judged.unknown_owners:
            # Before they are judged again.
            self.find_sockets()
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

    def counters(self) -> list[list[int]]:
        """The counters of each slot in the order of bpf/abi/counters.h, summed over the CPUs."""
        width = len(self._counters)
        size = 8 * width
        table = []
        for slot in range(MAX_TARGETS):
            value = libbpf.map_lookup(self._fds['sa_counters'], _U32.pack(slot), size * self._cpus)
            assert value is not None
            words = struct.unpack(f'={width * self._cpus}Q', value)
            table.append([sum(words[index::width]) for index in range(width)])
        return table

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
        )
        libbpf.map_update(self._fds['sa_settings'], _U32.pack(0), SETTINGS.pack(*settings))

    def _settings(self) -> SettingsRecord:
        value = libbpf.map_lookup(self._fds['sa_settings'], _U32.pack(0), SETTINGS.size)
        assert value is not None
        return SettingsRecord._make(SETTINGS.unpack(value))

    def _outcome(self) -> Outcome:
        now = self._settings()
        return Outcome(
            now.next_due_ns, now.leaving, now.found, now.found_left, now.listed, now.blocking,
            now.unknown_owners,
        )  # fmt: skip

    def _kept(self) -> KeptRecord:
        value = libbpf.map_lookup(self._fds['sa_kept'], _U32.pack(0), KEPT.size)
        assert value is not None
        return KeptRecord._make(KEPT.unpack(value))

    def _wait_for_programs(self) -> None:
        """Return when every BPF program that was running has ended (sa_grace in bpf/lib/maps.c)."""
        libbpf.map_update(self._fds['sa_grace'], _U32.pack(0), _U32.pack(self._fds['sa_window']))

    def _walk(self, walk: Walk) -> Iterator[bytes]:
        """Yields what libbpf.iterate() does."""
        self._prepare(walk)
        return self._iterate()

    def _iterate(self) -> Generator[bytes, None, None]:
        return libbpf.iterate(self._fds['bpf_iter__bpf_sk_storage_map'], self._fds['sa_ends'])


def _listener_keys(listeners: Iterable[tuple[str, int]]) -> list[bytes]:
    """A packed `struct listener_key` for each, with the network namespace of this process."""
    with socket.socket() as any_socket:
        (netns,) = _U64.unpack(any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _U64.size))
    return [LISTENER_KEY.pack(netns, pack_address(address), port, 0) for address, port in listeners]


def _unpack(printed: bytes) -> list[Event]:
    events = [event_from(printed[at : at + EVENT.size]) for at in range(0, len(printed), EVENT.size)]
    # The kernel shows an end that did not fit into one buffer again in the next; the later record holds.
    return list({event.cookie: event for event in events}.values())
