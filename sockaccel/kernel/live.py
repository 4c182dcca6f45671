# SPDX-License-Identifier: GPL-2.0-or-later
"""Owns every BPF object of the daemon: programs, maps, links, the ring buffer."""

import errno
import mmap
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sockaccel.core.connection import Counter, Event, EventKind, pack_address
from sockaccel.core.limits import MAX_RULES, MAX_TARGETS
from sockaccel.core.policy import Policy
from sockaccel.core.protocols import Urgency
from sockaccel.core.rules import Rule
from sockaccel.errors import KernelRefused
from sockaccel.kernel import libbpf
from sockaccel.kernel.adoption import Objects
from sockaccel.kernel.layout import (
    EVENT,
    FLOW,
    LISTENER_KEY,
    MAX_LISTED,
    RULE,
    SETTINGS,
    TARGET,
    TargetFlag,
    Walk,
    event_from,
)

_U32 = struct.Struct('=I')
_U64 = struct.Struct('=Q')
# asm-generic/socket.h
_SO_NETNS_COOKIE = 71


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left behind: evicted ends, ends that still drain, and when the next candidate is due.

    next_due_s: on CLOCK_MONOTONIC, None if there is no candidate.
    """

    evicted: list[Event]
    draining: list[Event]
    next_due_s: float | None


class Outcome(NamedTuple):
    """What a walk wrote down. due_ns: when the next candidate is due, on CLOCK_MONOTONIC, 0 if there is none.

    leaving: how many members should leave; listed: how many lines of sa_listing are filled.
    """

    due_ns: int
    leaving: int
    listed: int


class Kernel:
    """The kernel side of sockaccel. Objects that are live already stay so, and run the programs given here."""

    def __init__(
        self, objects: Objects, counters: list[Counter], events_per_second: int, join_after_s: float
    ) -> None:
        self._objects = objects
        self._fds = objects.fds
        self._counters = counters
        self._cpus = libbpf.possible_cpus()
        self._events_per_second = events_per_second
        self._join_after_s = join_after_s
        self._link = objects.link
        self._ring: libbpf.RingBuffer | None = None
        # What a walk does stands in the settings, so there is one at a time; listings walk in another thread.
        self._walking = threading.Lock()
        self._settle(Walk.LIST)
        libbpf.attach_map(self._fds['sockaccel_stub'], self._fds['sa_members'], libbpf.BPF_SK_MSG_VERDICT)
        libbpf.map_update(self._fds['sa_verdict'], _U32.pack(0), _U32.pack(self._fds['sockaccel_msg']))
        if self._link is not None and libbpf.link_cgroup(self._link):
            libbpf.replace_program(self._link, self._fds['sockaccel_join'])
        objects.keep()

    def release(self) -> None:
        """Let nothing outlive the process. Connections that are still joined go on by TCP; nothing is lost."""
        self.detach()
        self._objects.drop()

    def close(self) -> None:
        """Let go of everything; what is kept for the next process stays as it is."""
        if self._link is not None:
            os.close(self._link)
            self._link = None
        if self._ring:
            self._ring.close()
            self._ring = None
        with self._walking:
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()

    def listen(self, receive: Callable[[Event], None]) -> int:
        """Hand each event to `receive` from `consume()`; returns the fd that is readable when there is one."""
        self._ring = libbpf.RingBuffer(self._fds['sa_events'], lambda data: receive(event_from(data)))
        return self._ring.fd

    def tune(self, events_per_second: int, join_after_s: float) -> None:
        """Change the limit of connection events, for all CPUs together, and the age at which candidates join."""
        self._events_per_second = events_per_second
        self._join_after_s = join_after_s
        with self._walking:
            self._settle(Walk.LIST)

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
        """Watch connections of a cgroup and all below it, and of no other; False if that is so already.

        cgroup: an open directory. Raises KernelRefused.
        """
        if self._link is not None and libbpf.link_cgroup(self._link) == os.fstat(cgroup).st_ino:
            return False
        try:
            link = libbpf.attach_cgroup(self._fds['sockaccel_join'], cgroup, libbpf.BPF_CGROUP_SOCK_OPS)
        except OSError as exc:
            path = os.readlink(f'/proc/self/fd/{cgroup}')
            hint = 'the daemon needs CAP_BPF and CAP_NET_ADMIN'
            if exc.errno == errno.EPERM:
                hint = (
                    'a sock_ops program of somebody else is attached there or above without "multi", or the '
                    f'daemon lacks CAP_NET_ADMIN; see "bpftool cgroup show {path}"'
                )
            raise KernelRefused(f'cannot attach to cgroup "{path}" ({exc.strerror}): {hint}') from exc
        if self._link is not None:
            self._objects.drop_link()
            os.close(self._link)
        self._link = link
        self._objects.keep_link(link)
        return True

    def detach(self) -> None:
        """No new connection is covered from here on. Candidates are forgotten: nobody tells of their end."""
        if self._link is not None:
            self._objects.drop_link()
            os.close(self._link)
            self._link = None
            self._wait_for_programs()
            libbpf.map_clear(self._fds['sa_peers'], FLOW.size)

    def set_target(self, slot: int, generation: int, policy: Policy | None) -> None:
        flags = TargetFlag(0)
        if policy:
            flags = TargetFlag.ON | (TargetFlag.BLOCKING_READERS if policy.blocking_readers else TargetFlag(0))
        libbpf.map_update(self._fds['sa_targets'], _U32.pack(slot), TARGET.pack(generation, flags))

    def target_slots(self) -> list[tuple[int, bool]]:
        """Generation of every slot, and whether its target is on."""
        return [(generation, bool(flags)) for generation, flags in map(self._target, range(MAX_TARGETS))]

    def _target(self, slot: int) -> tuple[int, int]:
        value = libbpf.map_lookup(self._fds['sa_targets'], _U32.pack(slot), TARGET.size)
        assert value is not None
        generation, flags = TARGET.unpack(value)
        return generation, flags

    def covered(self) -> dict[int, int]:
        """The slot of each covered cgroup, by the cgroup's id."""
        found = {}
        for key in libbpf.map_keys(self._fds['sa_cgroups'], _U64.size):
            value = libbpf.map_lookup(self._fds['sa_cgroups'], key, _U32.size)
            if value:
                found[_U64.unpack(key)[0]] = _U32.unpack(value)[0]
        return found

    def cover(self, cgroup_id: int, slot: int) -> None:
        """Let a cgroup and all below it belong to a target's slot. Raises KernelRefused."""
        try:
            libbpf.map_update(self._fds['sa_cgroups'], _U64.pack(cgroup_id), _U32.pack(slot))
        except OSError as exc:
            raise KernelRefused(f'cannot add a cgroup to the targets ({exc.strerror})') from exc

    def uncover(self, cgroup_id: int) -> None:
        libbpf.map_delete(self._fds['sa_cgroups'], _U64.pack(cgroup_id))

    def serve(self, listeners: Iterable[tuple[str, int]], slot: int) -> None:
        """Let listeners belong to a target's slot, whoever made them. Raises KernelRefused.

        listeners: address and port each, in the network namespace of this process.
        """
        for key in _listener_keys(listeners):
            try:
                libbpf.map_update(self._fds['sa_served'], key, _U32.pack(slot))
            except OSError as exc:
                raise KernelRefused(f'cannot add a listener to the targets ({exc.strerror})') from exc

    def serve_no_more(self, listeners: Iterable[tuple[str, int]]) -> None:
        for key in _listener_keys(listeners):
            libbpf.map_delete(self._fds['sa_served'], key)

    def serve_nobody(self) -> None:
        """Forget every listener of `serve()`."""
        libbpf.map_clear(self._fds['sa_served'], LISTENER_KEY.size)

    def set_rules(self, rules: Iterable[Rule]) -> None:
        """Which connections are wanted, for those that connect from now on."""
        packed = b''.join(
            RULE.pack(rule.kind, rule.exclude, rule.first, rule.last, rule.address, rule.mask) for rule in rules
        )
        value = packed.ljust(MAX_RULES * RULE.size, b'\0')
        libbpf.map_update(self._fds['sa_rules'], _U32.pack(0), value)

    def find_sockets(self) -> None:
        """Take note of listeners that were there before, and count connections that were made too early."""
        # A walk that failed may have left something.
        libbpf.map_clear(self._fds['sa_met'], FLOW.size)
        for _nothing in libbpf.iterate(self._fds['bpf_iter__task_file']):
            pass
        libbpf.map_clear(self._fds['sa_met'], FLOW.size)

    def read_connections(self) -> bytes:
        """Every end, as `struct event` after `struct event`, some more than once. From any thread. OSError."""
        with self._walking:
            return b''.join(self._list()) if self._fds else b''

    def sweep(self) -> SweepResult:
        """Let suitable candidates join, evict the ends that should leave and hold nothing unread.

        Those that cannot leave yet stay marked. Between the two walks nobody can still be running a verdict that
        had not seen the marks.
        """
        libbpf.map_update(self._fds['sa_sweep_wanted'], _U32.pack(0), _U32.pack(0))
        with self._walking:
            self._walk(Walk.JUDGE)
            due_ns, leaving, _listed = self._outcome()
            left = []
            if leaving:
                self._wait_for_programs()
                left = _unpack(self._walk(Walk.EVICT))
                due_ns = min(filter(None, (due_ns, self._outcome().due_ns)), default=0)
        evicted = [event for event in left if event.kind is EventKind.EVICTED]
        draining = [event for event in left if event.kind is not EventKind.EVICTED]
        return SweepResult(evicted, draining, due_ns / 1e9 if due_ns else None)

    def counters(self) -> list[list[int]]:
        """Per slot the counters in the order of bpf/counters.h, summed over the CPUs."""
        width = len(self._counters)
        size = 8 * width
        table = []
        for slot in range(MAX_TARGETS):
            value = libbpf.map_lookup(self._fds['sa_counters'], _U32.pack(slot), size * self._cpus)
            assert value is not None
            words = struct.unpack(f'={width * self._cpus}Q', value)
            table.append([sum(words[index::width]) for index in range(width)])
        return table

    def _settle(self, walk: Walk) -> None:
        outcome = Outcome(due_ns=0, leaving=0, listed=0)
        value = SETTINGS.pack(self._events_per_second, walk, int(self._join_after_s * 1e9), *outcome, 0)
        libbpf.map_update(self._fds['sa_settings'], _U32.pack(0), value)

    def _outcome(self) -> Outcome:
        settings = libbpf.map_lookup(self._fds['sa_settings'], _U32.pack(0), SETTINGS.size)
        assert settings is not None
        *_settings, due_ns, leaving, listed, _pad = SETTINGS.unpack(settings)
        return Outcome(due_ns, leaving, listed)

    def _wait_for_programs(self) -> None:
        """Return when every BPF program that was running has ended (bpf/maps.c, sa_grace)."""
        libbpf.map_update(self._fds['sa_grace'], _U32.pack(0), _U32.pack(self._fds['sa_window']))

    def _walk(self, walk: Walk) -> bytes:
        self._settle(walk)
        return b''.join(self._iterate())

    def _list(self) -> Iterator[bytes]:
        with mmap.mmap(self._fds['sa_listing'], MAX_LISTED * EVENT.size, prot=mmap.PROT_READ) as listing:
            self._settle(Walk.LIST)
            for _interrupted in self._iterate():
                yield listing[: self._outcome().listed * EVENT.size]
                self._settle(Walk.LIST)
            yield listing[: self._outcome().listed * EVENT.size]

    def _iterate(self) -> Iterator[bytes]:
        return libbpf.iterate(self._fds['bpf_iter__bpf_sk_storage_map'], self._fds['sa_connections'])


def _listener_keys(listeners: Iterable[tuple[str, int]]) -> list[bytes]:
    with socket.socket() as any_socket:
        (netns,) = _U64.unpack(any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _U64.size))
    return [LISTENER_KEY.pack(netns, pack_address(address), port, 0) for address, port in listeners]


def _unpack(printed: bytes) -> list[Event]:
    events = [event_from(printed[at : at + EVENT.size]) for at in range(0, len(printed), EVENT.size)]
    # An end that did not fit into one buffer is shown again in the next.
    return list({event.cookie: event for event in events}.values())
