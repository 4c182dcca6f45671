# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel side while the daemon runs: what the core asks, done with BPF programs, maps, a link and walks."""

import errno
import os
import shlex
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

from sockaccel.core.connection import Counter, Event, pack_address
from sockaccel.core.limits import MAX_CGROUPS, MAX_SERVED, MAX_TARGETS
from sockaccel.core.opensocket import OpenSocket
from sockaccel.core.policy import Policy
from sockaccel.core.protocols import Urgency
from sockaccel.core.rules import Rule
from sockaccel.errors import KernelRefused, LimitExceeded
from sockaccel.kernel import libbpf, loader, looks
from sockaccel.kernel.abi import (
    LISTENER_KEY,
    PAIR_KEY,
    RULE,
    RULES,
    TARGET,
    TargetFlag,
    TargetRecord,
)
from sockaccel.kernel.aborts import Aborter
from sockaccel.kernel.adoption import Objects
from sockaccel.kernel.records import event_from
from sockaccel.kernel.walks import SweepResult, Walks
from sockaccel.kernel.watched import ABORTER, RECV_WATCHER, WAIT_WATCHER
from sockaccel.kernel.watchers import Watchers

_U32 = struct.Struct('=I')
_U64 = struct.Struct('=Q')
# asm-generic/socket.h
_SO_NETNS_COOKIE = 71


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
        self._links = objects.cgroup_links
        self._watchers = Watchers(objects.fds, objects.watcher_links, objects, unneeded)
        self._aborter = Aborter(objects.fds.get(ABORTER))
        self._ring: libbpf.RingBuffer | None = None
        self._walks = Walks(objects.fds, events_per_second, remembers=remembers)
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
        self._aborter.close()
        if self._ring:
            self._ring.close()
            self._ring = None
        self._walks.close()

    def listen(self, receive: Callable[[Event], None]) -> int:
        """Let `consume()` hand each event to `receive`. Returns the fd that is readable when there are events."""
        self._ring = libbpf.RingBuffer(self._fds['sa_events'], lambda data: receive(event_from(data)))
        return self._ring.fd

    def tune(self, events_per_second: int, *, remembers: bool) -> None:
        """Change how many events all CPUs together may report a second, and whether programs are remembered."""
        self._walks.tune(events_per_second, remembers=remembers)

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
        here = self._walks.root = os.fstat(cgroup).st_ino
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
            libbpf.wait_for_programs(self._fds['sa_grace'], self._fds['sa_window'])
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
        before, other_rules = self._target(slot), False
        if policy:
            other_rules = self._set_rules(slot, policy.rules)
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
        number = before.policy + (other_rules or flags != before.flags)
        packed = TARGET.pack(generation, flags, join_after_ns, heartbeat_ns, number % (1 << 32), 0)
        libbpf.map_update(self._fds['sa_targets'], _U32.pack(slot), packed)

    def _set_rules(self, slot: int, rules: Sequence[Rule]) -> bool:
        """Put rules in force for connections that are made from now on. rules: at most MAX_RULES.

        Returns whether they are others than before.
        """
        key = _U32.pack(slot)
        before = libbpf.map_lookup(self._fds['sa_rules'], key, RULES.size)
        if not rules:
            libbpf.map_delete(self._fds['sa_rules'], key)
            return before is not None
        packed = b''.join(
            RULE.pack(rule.kind, rule.exclude, rule.first, rule.last, rule.address, rule.mask) for rule in rules
        )
        packed = packed.ljust(RULES.size, b'\0')
        libbpf.map_update(self._fds['sa_rules'], key, packed)
        return packed != before

    def target_slots(self) -> list[tuple[int, bool]]:
        """Generation of every slot, and whether its target is on, in their order."""
        return [(each.generation, bool(each.flags)) for each in map(self._target, range(MAX_TARGETS))]

    def _target(self, slot: int) -> TargetRecord:
        value = libbpf.map_lookup(self._fds['sa_targets'], _U32.pack(slot), TARGET.size)
        assert value is not None
        return TargetRecord._make(TARGET.unpack(value))

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
        """See Walks.find_sockets()."""
        self._walks.find_sockets()

    def look(self, cgroup_id: int) -> Iterator[OpenSocket]:
        """See Walks.look()."""
        return self._walks.look(cgroup_id)

    def watch_calls(self, *, wanted: bool) -> None:
        """Let audits see what programs do with sockets that no target covers, or end that. OSError."""
        if self._fds:
            looks.want_calls(self._fds, wanted=wanted)
            self._watchers.serve_audits(wanted=wanted)

    def list_ends(self) -> Iterator[bytes]:
        """See Walks.list_ends()."""
        return self._walks.list_ends()

    def sweep(self) -> SweepResult:
        """See Walks.sweep()."""
        return self._walks.sweep(self._watch_waiting, self._aborter.abort)

    def _watch_waiting(self, *, waiting: bool) -> None:
        """Watch readers that wait only while a candidate has to be seen reading without waiting."""
        if self._links:
            self._watchers.demand(WAIT_WATCHER, needed=waiting)

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


def _listener_keys(listeners: Iterable[tuple[str, int]]) -> list[bytes]:
    """A packed `struct listener_key` for each, with the network namespace of this process."""
    with socket.socket() as any_socket:
        (netns,) = _U64.unpack(any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _U64.size))
    return [LISTENER_KEY.pack(netns, pack_address(address), port, 0) for address, port in listeners]
