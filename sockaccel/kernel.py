# SPDX-License-Identifier: GPL-2.0-or-later
"""Owns every BPF object of the daemon: programs, maps, links, the ring buffer. Closed, nothing stays attached."""

import errno
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sockaccel import libbpf
from sockaccel.errors import KernelRefused
from sockaccel.layout import (
    EVENT,
    MAX_TARGETS,
    SETTINGS,
    TARGET,
    Counter,
    Event,
    EventKind,
    Sweep,
    TargetFlag,
)

_U32 = struct.Struct('=I')
_U64 = struct.Struct('=Q')
# How long a new connection has to set O_NONBLOCK before it is judged.
SWEEP_GRACE_NS = 500_000_000


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left behind: evicted ends, ends that still drain, ends too young to be judged."""

    evicted: list[Event]
    draining: list[Event]
    young: int


class Kernel:
    """The kernel side of sockaccel, made from the fds that the loader handed over."""

    def __init__(self, fds: Mapping[str, int], counters: list[Counter], events_per_second: int) -> None:
        self._fds = dict(fds)
        self._counters = counters
        self._cpus = libbpf.possible_cpus()
        self._events_per_second = events_per_second
        self._link: int | None = None
        self._ring: libbpf.RingBuffer | None = None
        self._settle(Sweep.LIST)
        libbpf.attach_map(self._fds['sockaccel_stub'], self._fds['sa_members'], libbpf.BPF_SK_MSG_VERDICT)
        libbpf.map_update(self._fds['sa_verdict'], _U32.pack(0), _U32.pack(self._fds['sockaccel_msg']))

    def close(self) -> None:
        """Let go of everything. Connections that are still joined go on by TCP; nothing is lost."""
        self.detach()
        if self._ring:
            self._ring.close()
            self._ring = None
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def listen(self, receive: Callable[[Event], None]) -> int:
        """Hand each event to `receive` from `consume()`; returns the fd that is readable when there is one."""
        self._ring = libbpf.RingBuffer(self._fds['sa_events'], lambda data: receive(Event.unpack(data)))
        return self._ring.fd

    def limit_events(self, per_second: int) -> None:
        """Change the limit of connection events, for all CPUs together."""
        self._events_per_second = per_second
        self._settle(Sweep.LIST)

    def consume(self) -> None:
        if self._ring:
            self._ring.consume()

    @property
    def attached(self) -> bool:
        return self._link is not None

    def attach(self, cgroup: int) -> None:
        """Watch connections of a cgroup and all below it. cgroup: an open directory. Raises KernelRefused."""
        if self._link is not None:
            return
        try:
            self._link = libbpf.attach_cgroup(self._fds['sockaccel_join'], cgroup, libbpf.BPF_CGROUP_SOCK_OPS)
        except OSError as exc:
            path = os.readlink(f'/proc/self/fd/{cgroup}')
            hint = 'the daemon needs CAP_BPF and CAP_NET_ADMIN'
            if exc.errno == errno.EPERM:
                hint = (
                    'a sock_ops program of somebody else is attached there or above without "multi", or the '
                    f'daemon lacks CAP_NET_ADMIN; see "bpftool cgroup show {path}"'
                )
            raise KernelRefused(f'cannot attach to cgroup "{path}" ({exc.strerror}): {hint}') from exc

    def detach(self) -> None:
        """No new connection joins from here on."""
        if self._link is not None:
            os.close(self._link)
            self._link = None

    def set_target(self, slot: int, generation: int, flags: TargetFlag) -> None:
        libbpf.map_update(self._fds['sa_targets'], _U32.pack(slot), TARGET.pack(generation, flags))

    def cover(self, cgroup_id: int, slot: int) -> None:
        """Let a cgroup and all below it belong to a target's slot. Raises KernelRefused."""
        try:
            libbpf.map_update(self._fds['sa_cgroups'], _U64.pack(cgroup_id), _U32.pack(slot))
        except OSError as exc:
            raise KernelRefused(f'cannot add a cgroup to the targets ({exc.strerror})') from exc

    def uncover(self, cgroup_id: int) -> None:
        libbpf.map_delete(self._fds['sa_cgroups'], _U64.pack(cgroup_id))

    def find_listeners(self) -> None:
        """Take note of the listening sockets that were there before."""
        for _nothing in libbpf.iterate(self._fds['bpf_iter__task_file']):
            pass

    def members(self) -> list[Event]:
        """Every joined end, as EventKind.MEMBER."""
        return self._walk(Sweep.LIST)

    def sweep(self) -> SweepResult:
        """Evict the ends that should leave and hold nothing unread, mark those that cannot leave yet.

        Between the two walks nobody can still be running a verdict that had not seen the marks.
        """
        libbpf.map_update(self._fds['sa_sweep_wanted'], _U32.pack(0), _U32.pack(0))
        young = sum(event.young for event in self._walk(Sweep.MARK))
        self._wait_for_programs()
        left = self._walk(Sweep.EVICT)
        evicted = [event for event in left if event.kind is EventKind.EVICTED]
        draining = [event for event in left if event.kind is not EventKind.EVICTED]
        return SweepResult(evicted, draining, young)

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

    def _settle(self, sweep: Sweep) -> None:
        value = SETTINGS.pack(self._events_per_second, sweep, SWEEP_GRACE_NS)
        libbpf.map_update(self._fds['sa_settings'], _U32.pack(0), value)

    def _wait_for_programs(self) -> None:
        """Return when every BPF program that was running has ended (bpf/maps.c, sa_grace)."""
        libbpf.map_update(self._fds['sa_grace'], _U32.pack(0), _U32.pack(self._fds['sa_window']))

    def _walk(self, sweep: Sweep) -> list[Event]:
        self._settle(sweep)
        printed = b''.join(libbpf.iterate(self._fds['bpf_iter__sockmap'], self._fds['sa_members']))
        events = [Event.unpack(printed[at : at + EVENT.size]) for at in range(0, len(printed), EVENT.size)]
        # After each full buffer the kernel goes back to the head of a bucket (sock_hash_seq_find_next()).
        return list({event.cookie: event for event in events}.values())
