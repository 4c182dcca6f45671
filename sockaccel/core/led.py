# SPDX-License-Identifier: GPL-2.0-or-later
"""What interceptions are made of, and what they ask of the kernel, of the tree of cgroups and of a file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sockaccel.core.cgroup import Cgroup, Place
from sockaccel.core.interception import Interception
from sockaccel.core.limits import MAX_INTERCEPTIONS
from sockaccel.core.target import State, Target

# A place in the tree of cgroups: the id of the one above, and the name below it.
Spot = tuple[int, str]


class Tree(Protocol):
    """Where cgroups are (sockaccel.systemd.cgroups)."""

    def when_moved(self, tell: Callable[[str], None]) -> None: ...
    async def follow(self, target: Target, *, must_exist: bool = True) -> Place: ...
    def place(self, name: str) -> Place: ...
    def forget(self, name: str) -> None: ...
    def path(self, name: str) -> str:
        """Where the cgroup of a followed target is, or will be; '' while that is unknown."""

    def find(self, path: str) -> Cgroup | None:
        """The cgroup that has a path now."""


@dataclass(frozen=True)
class Owner:
    """Whose a cgroup is: the target's in a slot, or that of the proxy with a number."""

    is_proxy: bool
    number: int


@dataclass(frozen=True)
class Wanted:
    """What is to be in the kernel.

    owners: of each cgroup that exists, by id. proxies: the paths of those whose getsockopt() is answered, by id.
    spots: the owner of each place. doors: each owner with a port that takes connections to targets. served: the
    slot of each listener that systemd opened for a target, and connections to which are led, by address and port.
    """

    owners: dict[int, Owner]
    proxies: dict[int, str]
    spots: dict[Spot, Owner]
    doors: set[tuple[Owner, int]] = field(default_factory=set)
    served: dict[tuple[str, int], int] = field(default_factory=dict)


class LeadKernel(Protocol):
    """The programs that lead (sockaccel.kernel.lead). Any method may raise OSError."""

    def set_slot(self, slot: int, interception: Interception | None, proxy: Owner | None) -> None:
        """Write what a slot does; nothing leads to it yet. None: it is off."""

    def put(self, wanted: Wanted) -> None:
        """Let all of this be there, and then nothing else, but for proxies. Raises KernelRefused."""

    def attach(self, *, inbound: bool) -> None:
        """Lead from now on; inbound: also what comes in. A repeated call is no error. Raises KernelRefused.

        Targets that listen where nothing can lead are told of (`elsewhere`) before it returns.
        """

    def settle(self, proxies: Mapping[int, str], *, leads: bool, inbound: bool) -> bool:
        """Detach from all other proxies, and, unless it leads on, from everything, or from what comes in.

        False if led connections are on their way to their proxies: `drained` is told when that is over.
        """

    def release(self) -> None:
        """Detach everything at once, and keep nothing for the next daemon."""

    def counters(self, slot: int) -> dict[str, int]: ...

    def is_down(self, slot: int) -> bool:
        """Whether the proxy was not there when it was last needed."""


class Memory(Protocol):
    """What outlives the process (sockaccel.systemd.leadfile)."""

    def write(self, entries: list[dict[str, Any]]) -> None:
        """From any thread. Raises StateNotSaved."""


@dataclass(frozen=True)
class Entry:
    """slot: of the target. number: of its proxy, which several entries can share. file: the file:line that wants
    it, '' for what Intercept has said.
    """

    interception: Interception
    slot: int
    number: int
    file: str = ''

    @property
    def names(self) -> tuple[str, str]:
        """Of the target and of its proxy."""
        return self.interception.target, self.interception.proxy

    @property
    def target(self) -> Owner:
        return Owner(is_proxy=False, number=self.slot)

    @property
    def proxy(self) -> Owner:
        if self.interception.proxy == self.interception.target:
            return self.target
        return Owner(is_proxy=True, number=self.number)

    def to_json(self) -> dict[str, Any]:
        return {**self.interception.to_json(), 'slot': self.slot, 'number': self.number, 'file': self.file}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> 'Entry':
        """Raises KeyError, TypeError, ValueError, SockaccelError."""
        slot, number = int(entry['slot']), int(entry['number'])
        if not 0 < slot < MAX_INTERCEPTIONS or not 0 < number < MAX_INTERCEPTIONS:
            raise ValueError(f'there is no slot {slot}, or no proxy {number}')
        return cls(Interception.from_json(entry), slot, number, str(entry['file']))


@dataclass(frozen=True)
class InterceptionStatus:
    """An interception as users see it. proxy_is_down: since the last connection that wanted it. file: of Entry."""

    interception: Interception
    state: State
    detail: str
    proxy_is_down: bool = False
    file: str = ''
    counters: Mapping[str, int] = field(default_factory=dict)
