# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine needs, in memory: kernel, cgroups, remembered state, time. Any step can be made to fail.

The engine that runs over it is the real one.
"""

import heapq
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from sockaccel.core.cgroup import Cgroup, Place
from sockaccel.core.connection import ConnectionState, Event, EventKind, Flow
from sockaccel.core.desired import Desired
from sockaccel.core.engine import Engine
from sockaccel.core.finding import Finding
from sockaccel.core.knowledge import Knowledge
from sockaccel.core.limits import MAX_TARGETS
from sockaccel.core.opensocket import OpenSocket
from sockaccel.core.policies import Policies, layer_of
from sockaccel.core.policy import Policy
from sockaccel.core.programs import Executable, Programs, Seen
from sockaccel.core.protocols import Urgency
from sockaccel.core.target import Target
from sockaccel.errors import InvalidTarget, SockaccelError
from sockaccel.kernel.abi import COUNTERS, EVENT, FLOW, PAIR_KEY

SERVER_PORT = 5432
ISSUE = Finding('fionread', 'issue', 'FIONREAD is wrong')
NAMES = [counter.name for counter in COUNTERS]
MISSED = NAMES.index('missed')


class Failures:
    """Calls by name, and those that fail. Each fake tells each of its calls here before it does anything."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._planned: dict[str, BaseException] = {}

    def plan(self, call: str, error: BaseException) -> None:
        """Let the next call of this name raise."""
        self._planned[call] = error

    def called(self, call: str) -> None:
        self.calls.append(call)
        if call in self._planned:
            raise self._planned.pop(call)


@dataclass
class Swept:
    """sockaccel.core.protocols.SweepResult"""

    evicted: list[Event] = field(default_factory=list)
    draining: list[Event] = field(default_factory=list)
    next_due_s: float | None = None
    ends_turned_away: int = 0
    listeners_turned_away: int = 0


@dataclass(frozen=True)
class Contents:
    """All that the maps of a kernel hold, to be compared."""

    attached: bool
    on: dict[int, tuple[int, Policy]]
    covered: dict[int, int]
    serving: dict[tuple[str, int], int]


class MemoryKernel:
    """sockaccel.core.protocols.Kernel. unread: by slot, how many ends hold unread bytes while it is off.

    sweep_takes_s, search_takes_s: by how much a sweep, or a search for sockets, moves the clock on.
    """

    def __init__(self, failures: Failures, clock: 'FakeClock') -> None:
        self._failures = failures
        self._clock = clock
        self.attached = False
        self.generations = [0] * MAX_TARGETS
        self.policies: dict[int, Policy] = {}
        self.cgroups: dict[int, int] = {}
        self.listeners: dict[tuple[str, int], int] = {}
        self.table = [[0] * len(COUNTERS) for _slot in range(MAX_TARGETS)]
        self.wanted = Urgency.NONE
        self.waiting: list[Event] = []
        self.receive: Callable[[Event], None] = lambda _event: None
        self.unread: dict[int, int] = {}
        # Ends of targets that are on, but that must leave all the same.
        self.marked: list[Event] = []
        self.evicted: list[Event] = []
        self.next_due_s: float | None = None
        self.ends_turned_away = self.listeners_turned_away = 0
        self.sweep_takes_s = self.search_takes_s = 0.0
        self.sweeps: list[float] = []
        self.searches: list[float] = []
        # Counted as missed by the next search for sockets, by slot.
        self.missed: dict[int, int] = {}
        # What the looks of audits see, one after the other, and the cgroups that they asked for.
        self.seen: list[list[OpenSocket]] = [[]]
        self.looked_at: list[int] = []
        self.calls_watched: list[bool] = []
        self.on_look: Callable[[], None] = lambda: None

    def contents(self) -> Contents:
        on = {slot: (self.generations[slot], policy) for slot, policy in self.policies.items()}
        return Contents(self.attached, on, dict(self.cgroups), dict(self.listeners))

    def attach(self, cgroup: int) -> bool:
        self._failures.called('attach')
        os.fstat(cgroup)
        newly, self.attached = not self.attached, True
        return newly

    def detach(self) -> None:
        self.attached = False

    def set_target(self, slot: int, generation: int, policy: Policy | None) -> None:
        self._failures.called('set_target' if policy else 'switch_off')
        assert 0 < slot < MAX_TARGETS
        self.generations[slot] = generation
        if policy:
            self.policies[slot] = policy
        else:
            self.policies.pop(slot, None)

    def target_slots(self) -> list[tuple[int, bool]]:
        return [(generation, slot in self.policies) for slot, generation in enumerate(self.generations)]

    def covered(self) -> dict[int, int]:
        return dict(self.cgroups)

    def cover(self, cgroup_id: int, slot: int) -> None:
        self._failures.called('cover')
        self.cgroups[cgroup_id] = slot

    def uncover(self, cgroup_id: int) -> None:
        self.cgroups.pop(cgroup_id, None)

    def serve(self, listeners: Iterable[tuple[str, int]], slot: int) -> None:
        """The second listener may fail when the first one is there already."""
        for number, listener in enumerate(sorted(listeners)):
            self._failures.called(f'serve {number}')
            self.listeners[listener] = slot

    def serve_no_more(self, listeners: Iterable[tuple[str, int]]) -> None:
        for listener in listeners:
            self.listeners.pop(listener, None)

    def serve_nobody(self) -> None:
        self.listeners.clear()

    def find_sockets(self) -> None:
        self._failures.called('find_sockets')
        self.searches.append(self._clock.time())
        self._clock.now += self.search_takes_s
        for slot, number in self.missed.items():
            self.table[slot][MISSED] += number
        self.missed.clear()

    def look(self, cgroup_id: int) -> Iterator[OpenSocket]:
        """What `seen` has next; its last entry again and again."""
        self._failures.called('look')
        self.looked_at.append(cgroup_id)
        self.on_look()
        yield from self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]

    def watch_calls(self, *, wanted: bool) -> None:
        self._failures.called('watch_calls')
        self.calls_watched.append(wanted)

    def sweep(self) -> Swept:
        self._failures.called('sweep')
        self.sweeps.append(self._clock.time())
        self._clock.now += self.sweep_takes_s
        self.wanted = Urgency.NONE
        draining = [
            end(slot=slot, kind=EventKind.CONNECTION)
            for slot, number in self.unread.items()
            if slot not in self.policies
            for _end in range(number)
        ]
        evicted, self.evicted = self.evicted, []
        return Swept(
            evicted, [*self.marked, *draining], self.next_due_s, self.ends_turned_away, self.listeners_turned_away
        )

    def consume(self) -> None:
        waiting, self.waiting = self.waiting, []
        for event in waiting:
            self.receive(event)

    def sweep_wanted(self) -> Urgency:
        return self.wanted

    def counters(self) -> list[list[int]]:
        self._failures.called('counters')
        return [list(row) for row in self.table]


class MemoryCgroups:
    """sockaccel.core.protocols.Cgroups: every path exists, but for those below /nowhere, and no unit runs.

    systemd does not know unknown.service.
    """

    def __init__(self, failures: Failures) -> None:
        self._failures = failures
        self._ids: dict[str, Cgroup] = {}
        self._next_id = itertools.count(1000)
        self._tell: Callable[[str], None] = lambda _name: None
        self.followed: dict[str, Place] = {}
        # The listeners of a target that is to be followed.
        self.listeners: dict[str, frozenset[tuple[str, int]]] = {}

    def when_moved(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def cgroup(self, path: str) -> Cgroup:
        """The cgroup that is at a path now."""
        if path not in self._ids:
            self._ids[path] = Cgroup(path, next(self._next_id))
        return self._ids[path]

    def remove(self, path: str) -> None:
        """Another cgroup of the same path has another id."""
        del self._ids[path]

    def move(self, name: str, place: Place) -> None:
        """A followed target has another place now."""
        self.followed[name] = place
        self._tell(name)

    def open_root(self) -> int:
        self._failures.called('open_root')
        return os.open('/', os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    async def follow(self, target: Target, *, must_exist: bool = True) -> Place:
        self._failures.called('follow')
        if target.name == '/defect':
            raise ZeroDivisionError('a defect')
        listeners = self.listeners.get(target.name, frozenset())
        if not target.name.startswith('/nowhere') and target.name.startswith(('/', '*')):
            place = Place(self.cgroup(target.name), '', listeners)
        elif must_exist and target.name.startswith(('/', 'unknown.')):
            raise InvalidTarget(f'target "{target.name}" does not exist')
        else:
            place = Place(None, 'its cgroup does not exist yet', listeners)
        self.followed[target.name] = place
        return place

    def place(self, name: str) -> Place:
        return self.followed[name]

    def forget(self, name: str) -> None:
        self.followed.pop(name, None)


class MemoryFiles:
    """sockaccel.core.protocols.Memory"""

    def __init__(self, failures: Failures) -> None:
        self._failures = failures
        self.written = Desired()

    def write(self, desired: Desired) -> None:
        self._failures.called('write')
        self.written = desired.copy()

    def forget_runtime(self) -> None:
        self.written = Desired(lasting=self.written.lasting)


class MemoryMaps:
    """sockaccel.core.programs.Maps. held: what is in the map of executables."""

    def __init__(self, failures: Failures) -> None:
        self._failures = failures
        self.named: dict[str, Knowledge] = {}
        self.held: dict[Executable, Seen] = {}

    def names(self, wanted: dict[str, Knowledge]) -> None:
        self.named = dict(wanted)

    def read(self) -> list[Seen]:
        return list(self.held.values())

    def write(self, executable: Executable, knowledge: Knowledge) -> None:
        self._failures.called('write program')
        before = self.held.get(executable, Seen(executable, '', knowledge, 0))
        if knowledge:
            self.held[executable] = replace(before, knowledge=knowledge)
        else:
            self.held.pop(executable, None)

    def watch(self, executable: Executable, path: str, knowledge: Knowledge, since: int = 1) -> None:
        """As a watcher writes it."""
        before = self.held.get(executable)
        known = before.knowledge if before else Knowledge(0)
        self.held[executable] = Seen(executable, path, known | knowledge, since)


class MemoryPrograms:
    """sockaccel.core.programs.Memory"""

    def __init__(self, failures: Failures) -> None:
        self._failures = failures
        self.written: list[Seen] = []

    def read(self) -> list[Seen]:
        return list(self.written)

    def write(self, programs: list[Seen]) -> None:
        self._failures.called('write programs')
        self.written = list(programs)


class FakeClock:
    """sockaccel.core.protocols.Clock, whose time only `advance` and slow sweeps move on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._count = itertools.count()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object], /) -> 'FakeTimer':
        timer = FakeTimer(callback)
        heapq.heappush(self._timers, (when, next(self._count), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Let so much time pass, and call what is due in it."""
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _count, timer = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            timer.call()
        self.now = max(self.now, end)

    def due(self) -> list[float]:
        """In how many seconds each timer is due."""
        return [when - self.now for when, _count, timer in sorted(self._timers) if timer.is_set]


class FakeTimer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback
        self.is_set = True

    def cancel(self) -> None:
        self.is_set = False

    def call(self) -> None:
        if self.is_set:
            self.is_set = False
            self._callback()


@dataclass
class World:
    """An engine and what it works with. Another engine over the same is the next daemon."""

    failures: Failures
    clock: FakeClock
    kernel: MemoryKernel
    cgroups: MemoryCgroups
    files: MemoryFiles
    engine: Engine
    events: list[tuple[Event, str]] = field(default_factory=list)
    changes: int = 0

    def _changed(self) -> None:
        self.changes += 1

    def watch(self) -> None:
        self.engine.on_event = lambda event, target: self.events.append((event, target))
        self.engine.on_change = self._changed
        self.kernel.receive = self.engine.receive

    def restart(self, findings: Iterable[Finding] = (), policies: Policies | None = None) -> 'World':
        """The next daemon, not started; with the same kernel, files and time, and cgroups that nobody follows."""
        cgroups = MemoryCgroups(self.failures)
        cgroups._ids, cgroups._next_id = self.cgroups._ids, self.cgroups._next_id
        cgroups.listeners = self.cgroups.listeners
        return world(findings, policies, replace(self, cgroups=cgroups))


def world(
    findings: Iterable[Finding] = (), policies: Policies | None = None, before: World | None = None
) -> World:
    """An engine, not started, over an empty kernel, or over what an earlier one left."""
    failures = before.failures if before else Failures()
    clock = before.clock if before else FakeClock()
    kernel = before.kernel if before else MemoryKernel(failures, clock)
    cgroups = before.cgroups if before else MemoryCgroups(failures)
    files = before.files if before else MemoryFiles(failures)
    findings = list(findings)
    programs = Programs(MemoryMaps(failures), MemoryPrograms(failures), lambda _path: None, findings)
    engine = Engine(
        kernel, cgroups, files, clock, COUNTERS, findings, files.written.copy(), policies or Policies(), programs
    )
    made = World(failures, clock, kernel, cgroups, files, engine)
    made.watch()
    return made


def defaults(**texts: str) -> Policies:
    """What a file with nothing but a section [Sockaccel] says."""
    return Policies(layer_of(texts))


def end(**values: Any) -> Event:
    """An end of a connection, as an event."""
    defaults: dict[str, Any] = {
        'flow': Flow(1, '127.0.0.1', '127.0.0.1', 40000, SERVER_PORT),
        'time_ns': 0, 'cookie': 1, 'peer_cookie': 2, 'cgroup': 3,
        'redirected_bytes': 100, 'redirected_messages': 1, 'tcp_bytes': 7, 'tcp_messages': 1,
        'kind': EventKind.JOINED, 'reason': 0, 'slot': 1, 'generation': 1, 'active': True, 'pid': 42, 'marked': 0,
        'state': ConnectionState.JOINED, 'program': 'psql',
    }  # fmt: skip
    return Event(**{**defaults, **values})


def packed_ends(count: int, slot: int = 1) -> bytes:
    """What the kernel side reads of so many joined connections; the later, the busier."""
    loopback = bytes(10) + b'\xff\xff\x7f\0\0\1'
    found = []
    for number in range(count):
        port = 10000 + number % 50000
        # One network namespace has not enough ports.
        netns = 1 + number // 50000
        client = FLOW.pack(netns, loopback, loopback, port, SERVER_PORT, 0)
        server = FLOW.pack(netns, loopback, loopback, SERVER_PORT, port, 0)
        keys = PAIR_KEY.pack(number, number + 1), PAIR_KEY.pack(number + 1, number)
        for flow, active, program in ((client, 1, b'psql'), (server, 0, b'postgres')):
            cookie = 2 * number + 2 + active
            numbers = (1, cookie, cookie ^ 1, 1, number, 1, 0, 0)
            last = (EventKind.CONNECTION, 0, slot, 1, active, 100 + active, 0, ConnectionState.JOINED, 0, 0)
            found.append(EVENT.pack(flow, keys[active], *numbers, *last, program))
    return b''.join(found)


class Refusal(SockaccelError):
    """What a test lets a step fail with."""
