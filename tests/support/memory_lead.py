# SPDX-License-Identifier: GPL-2.0-or-later
"""What sockaccel.core.interceptions works with, in memory."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sockaccel.core.cgroup import Cgroup, Place
from sockaccel.core.interception import Interception
from sockaccel.core.interceptions import Interceptions
from sockaccel.core.led import Entry, Owner, Wanted
from sockaccel.core.target import Target
from sockaccel.errors import InvalidTarget, KernelRefused, StateNotSaved


class MemoryTree:
    """Cgroups by path; a unit's is below /system.slice. missing: paths of those that are not there.

    listeners: those that systemd opened, by name.
    """

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.followed: set[str] = set()
        self.listeners: dict[str, frozenset[tuple[str, int]]] = {}
        self.tell: Callable[[str], None] = lambda _name: None
        self._ids: dict[str, int] = {}
        self._next = itertools.count(100)

    def when_moved(self, tell: Callable[[str], None]) -> None:
        self.tell = tell

    async def follow(self, target: Target, *, must_exist: bool = True) -> Place:
        if must_exist and target.name.startswith('unknown'):
            raise InvalidTarget(f'"{target.name}" does not exist')
        assert target.name not in self.followed
        self.followed.add(target.name)
        return self.place(target.name)

    def place(self, name: str) -> Place:
        cgroup = self.find(self.path(name))
        return Place(cgroup, '' if cgroup else 'it is not there', self.listeners.get(name, frozenset()))

    def forget(self, name: str) -> None:
        self.followed.remove(name)

    def path(self, name: str) -> str:
        return name if name.startswith('/') else f'/system.slice/{name}'

    def find(self, path: str) -> Cgroup | None:
        if path in self.missing:
            return None
        return Cgroup(path, self._ids.setdefault(path, next(self._next)))

    def renew(self, path: str) -> None:
        """Another cgroup of the same path has another id."""
        self._ids.pop(path, None)


@dataclass
class MemoryLead:
    """The kernel side. busy: whether led connections are on their way. fails: the method that fails.

    tell_elsewhere: called where a target that listens where nothing can lead would be found.
    """

    slots: dict[int, tuple[Interception, Owner]] = field(default_factory=dict)
    now: Wanted = field(default_factory=lambda: Wanted({}, {}, {}))
    answered: set[str] = field(default_factory=set)
    attached: bool = False
    leads: bool = False
    inbound: bool = False
    tell_elsewhere: Callable[[], None] = lambda: None
    busy: bool = False
    fails: str = ''
    down: set[int] = field(default_factory=set)

    def _called(self, name: str) -> None:
        if self.fails == name:
            raise KernelRefused(f'{name} fails')

    def set_slot(self, slot: int, interception: Interception | None, proxy: Owner | None) -> None:
        self._called('set_slot')
        self.slots.pop(slot, None)
        if interception and proxy:
            self.slots[slot] = interception, proxy

    def put(self, wanted: Wanted) -> None:
        if wanted.spots:
            self._called('put')
        self.now = wanted
        self.answered |= set(wanted.proxies.values())

    def attach(self, *, inbound: bool) -> None:
        self._called('attach')
        self.attached = self.leads = True
        self.inbound = self.inbound or inbound
        if inbound:
            self.tell_elsewhere()

    def settle(self, proxies: Mapping[int, str], *, leads: bool, inbound: bool) -> bool:
        self.leads = self.leads and leads
        self.inbound = self.inbound and inbound
        if self.busy:
            return False
        self.attached = self.attached and leads
        self.answered = set(proxies.values()) if leads else set()
        return True

    def release(self) -> None:
        self.attached = self.leads = self.inbound = False
        self.answered = set()

    def counters(self, slot: int) -> dict[str, int]:
        return {'led': slot}

    def is_down(self, slot: int) -> bool:
        return slot in self.down


class MemoryLeadFile:
    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.fails = False

    def write(self, entries: list[dict[str, Any]]) -> None:
        if self.fails:
            raise StateNotSaved('no room')
        self.entries = entries


@dataclass
class LeadWorld:
    tree: MemoryTree = field(default_factory=MemoryTree)
    kernel: MemoryLead = field(default_factory=MemoryLead)
    file: MemoryLeadFile = field(default_factory=MemoryLeadFile)
    keeps: bool = True
    loads: int = 0

    def __post_init__(self) -> None:
        self.all = self.daemon()

    def daemon(self) -> Interceptions:
        """The next one, not started, with the same kernel and file."""
        self.tree.followed = set()
        remembered = [Entry.from_json(entry) for entry in self.file.entries]
        return Interceptions(self._load, self.tree, self.file, remembered, keeps=lambda: self.keeps)

    async def _load(self) -> MemoryLead:
        self.loads += 1
        return self.kernel
