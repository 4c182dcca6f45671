# SPDX-License-Identifier: GPL-2.0-or-later
"""Audits: the open sockets of a target are looked at for a while, and nothing about them is changed."""

import asyncio
import contextlib
from collections.abc import Iterator

from sockaccel.core.cgroup import Cgroup
from sockaccel.core.protocols import Cgroups, Clock, Kernel
from sockaccel.core.slots import Slots
from sockaccel.core.target import Target, quote
from sockaccel.core.watch import Watch
from sockaccel.errors import InvalidTarget, LimitExceeded, SystemRefused

# At one time; a few megabytes each.
MAXIMUM_AUDITS = 4
SHORTEST_S, LONGEST_S, DEFAULT_S = 1, 3600, 60
# An audit looks so often, but not more often than every half second, and not sooner after a look of t seconds than
# 10 t.
_LOOKS, _LOOK_EVERY_S, _REST = 20, 0.5, 10


class Auditor:
    """lock: that of every change of what is wanted."""

    def __init__(
        self,
        kernel: Kernel,
        cgroups: Cgroups,
        slots: Slots,
        clock: Clock,
        lock: asyncio.Lock,
    ) -> None:
        self._kernel = kernel
        self._cgroups = cgroups
        self._slots = slots
        self._clock = clock
        self._lock = lock
        self._running: set[str] = set()
        # How many want to know what programs do.
        self._watching = 0
        # A look takes a thread, of which there are few.
        self._one_at_a_time = asyncio.Lock()

    @contextlib.contextmanager
    def admitted(self, target: Target) -> Iterator[None]:
        """Nobody else audits the target meanwhile. Raises LimitExceeded."""
        if target.name in self._running:
            raise LimitExceeded(f'{quote(target.name)} is being audited already: wait for the end of that')
        if len(self._running) >= MAXIMUM_AUDITS:
            raise LimitExceeded(
                f'{MAXIMUM_AUDITS} audits are running, which is the limit: wait for the end of one'
            )
        self._running.add(target.name)
        try:
            yield
        finally:
            self._running.discard(target.name)

    async def run(self, target: Target, seconds: float) -> Watch:
        """Watch for so long; the caller is `admitted`. Raises InvalidTarget, LimitExceeded, SystemRefused."""
        await self.require(target)
        watch = Watch()
        end = self._clock.time() + seconds
        with self._calls_watched(target):
            while True:
                before = self._clock.time()
                await self._look(target, watch)
                now = self._clock.time()
                if now >= end:
                    return watch
                wait = max(seconds / _LOOKS, _LOOK_EVERY_S, _REST * (now - before))
                await self._sleep_until(min(now + wait, end))

    @contextlib.contextmanager
    def _calls_watched(self, target: Target) -> Iterator[None]:
        """The kernel notes meanwhile what programs do with their sockets, where it can. Raises SystemRefused."""
        if not self._watching:
            try:
                self._kernel.watch_calls(wanted=True)
            except OSError as exc:
                raise SystemRefused(f'{quote(target.name)} was not audited: {exc}') from exc
        self._watching += 1
        try:
            yield
        finally:
            self._watching -= 1
            if not self._watching:
                self._kernel.watch_calls(wanted=False)

    async def require(self, target: Target) -> None:
        """Whether there is something to watch. Raises InvalidTarget, LimitExceeded."""
        async with self._lock:
            if target.name in self._slots.enabled:
                raise InvalidTarget(
                    f'{quote(target.name)} is enabled, and an audit watches plain TCP: see "sockaccelctl '
                    'connections", or disable it first'
                )
            place = await self._cgroups.follow(target)
            self._cgroups.forget(target.name)
        if not place.cgroup:
            raise InvalidTarget(f'there is nothing to watch of {quote(target.name)}: {place.why}')

    async def _look(self, target: Target, watch: Watch) -> None:
        cgroup = await self._find(target)
        if cgroup is None:
            # A unit is being restarted, and will be there at the next look.
            return
        try:
            async with self._one_at_a_time:
                await asyncio.to_thread(lambda: watch.add(self._kernel.look(cgroup.id)))
        except OSError as exc:
            raise SystemRefused(
                f'{quote(target.name)} was not audited: a walk over open files failed ({exc})'
            ) from exc

    async def _find(self, target: Target) -> Cgroup | None:
        """Where the target is now: it may have another cgroup than at the last look."""
        async with self._lock:
            if enabled := self._slots.enabled.get(target.name):
                return enabled.cgroup
            try:
                place = await self._cgroups.follow(target, must_exist=False)
            except (InvalidTarget, LimitExceeded):
                return None
            self._cgroups.forget(target.name)
            return place.cgroup

    async def _sleep_until(self, when: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_at(when, lambda: None if woken.done() else woken.set_result(None))
        try:
            await woken
        finally:
            timer.cancel()


def parse_seconds(seconds: int) -> int:
    """Raises LimitExceeded."""
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise LimitExceeded(f'an audit takes from {SHORTEST_S} to {LONGEST_S} seconds, not {seconds}')
    return seconds
