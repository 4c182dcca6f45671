# SPDX-License-Identifier: GPL-2.0-or-later
"""What the core asks of the kernel side, the systemd side and the event loop.

sockaccel.kernel and sockaccel.systemd implement these for real, tests/support/memory_kernel.py in memory.
"""

from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import Protocol

from sockaccel.core.cgroup import Place
from sockaccel.core.connection import Event
from sockaccel.core.desired import Desired
from sockaccel.core.ends import Layout
from sockaccel.core.opensocket import OpenSocket
from sockaccel.core.policy import Policy
from sockaccel.core.target import Target


class Urgency(IntEnum):
    """How soon the BPF programs want a sweep. LATER: when a new connection is old enough to join."""

    NONE = 0
    LATER = 1
    NOW = 2


class SweepResult(Protocol):
    """What a sweep did.

    evicted: ends that left the map. draining: marked ends that cannot leave yet. next_due_s: when the next
    candidate is old enough to join, in seconds of CLOCK_MONOTONIC; None without candidates. ends_turned_away,
    listeners_turned_away: for how many there was no place so far; the numbers only grow.
    """

    @property
    def evicted(self) -> list[Event]: ...
    @property
    def draining(self) -> list[Event]: ...
    @property
    def next_due_s(self) -> float | None: ...
    @property
    def ends_turned_away(self) -> int: ...
    @property
    def listeners_turned_away(self) -> int: ...


class Kernel(Protocol):
    """The BPF programs and maps (sockaccel.kernel.live). Any method may raise OSError."""

    def attach(self, cgroup: int) -> bool:
        """Watch connections of a cgroup, an fd of its directory, and of all below. False if it is so already.

        Raises KernelRefused.
        """

    def detach(self) -> None:
        """Cover no new connection. A repeated call is no error."""

    def set_target(self, slot: int, generation: int, policy: Policy | None) -> None:
        """Switch a slot's target on, or off where the policy is None: then all its messages go by TCP."""

    def target_slots(self) -> list[tuple[int, bool]]:
        """Of each slot, by its number: the generation, and whether its target is on."""

    def covered(self) -> dict[int, int]:
        """The slot of each covered cgroup, by cgroup id."""

    def cover(self, cgroup_id: int, slot: int) -> None:
        """Let a cgroup and all below it belong to a slot. Raises KernelRefused."""

    def uncover(self, cgroup_id: int) -> None:
        """The opposite of `cover`. A repeated call is no error."""

    def serve(self, listeners: Iterable[tuple[str, int]], slot: int) -> None:
        """Let listeners, address and port each, serve a slot's target. Raises KernelRefused."""

    def serve_no_more(self, listeners: Iterable[tuple[str, int]]) -> None:
        """The opposite of `serve`. A repeated call is no error."""

    def serve_nobody(self) -> None:
        """`serve_no_more` for all listeners."""

    def find_sockets(self) -> None:
        """Look at every open socket: note the listeners, count the connections that were missed."""

    def look(self, cgroup_id: int) -> Iterator[OpenSocket]:
        """The open sockets of a cgroup, every listener, and the other ends; some twice. From any thread."""

    def watch_calls(self, *, wanted: bool) -> None:
        """Whether `look` also tells what programs do with their sockets from now on, where it can be seen."""

    def sweep(self) -> SweepResult:
        """Let suitable candidates join; take members that should leave out of the map where they can leave."""

    def consume(self) -> None:
        """Call the daemon's callback with each waiting event."""

    def sweep_wanted(self) -> Urgency:
        """Whether a BPF program has wanted a sweep since the last one."""

    def counters(self) -> list[list[int]]:
        """Of each slot, by its number, the value of every counter."""


class Ends(Protocol):
    """Every end that the kernel keeps (sockaccel.kernel.ends). There can be 200,000."""

    @property
    def layout(self) -> Layout:
        """Of what `parts` gives."""

    @property
    def parts(self) -> Callable[[], Iterator[bytes]]:
        """Gives all of them in parts, as a walk goes; some are there twice. From any thread. OSError."""


class Cgroups(Protocol):
    """Where the cgroups of targets are (sockaccel.systemd.cgroups)."""

    def when_moved(self, tell: Callable[[str], None]) -> None:
        """Call `tell` with the name of each followed target whose place is another one from now on."""

    def open_root(self) -> int:
        """An fd, which the caller closes, of the cgroup that sockaccel is confined to. OSError."""

    async def follow(self, target: Target, *, must_exist: bool = True) -> Place:
        """Watch where a target's cgroup is, until `forget`: to follow means this.

        must_exist: whether a cgroup path has to exist now, and systemd has to know a unit. Raises InvalidTarget
        and LimitExceeded; then the target is not followed.
        """

    def place(self, name: str) -> Place:
        """Where a followed target is now."""

    def forget(self, name: str) -> None:
        """Follow a target no longer. A repeated call is no error."""


class Memory(Protocol):
    """What outlives the process (sockaccel.systemd.statefiles)."""

    def write(self, desired: Desired) -> None:
        """From any thread. Raises StateNotSaved."""

    def forget_runtime(self) -> None:
        """Forget all but the lasting targets."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """An asyncio event loop is one. Its time is CLOCK_MONOTONIC, in seconds."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer: ...
