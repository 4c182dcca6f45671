# SPDX-License-Identifier: GPL-2.0-or-later
"""When the daemon sweeps and looks for open sockets, and what comes of it."""

from collections.abc import Callable

import structlog

from sockaccel.core import messages
from sockaccel.core.connection import Event
from sockaccel.core.limits import MAX_TARGET_LISTENERS
from sockaccel.core.protocols import Clock, Kernel, SweepResult, Timer
from sockaccel.core.slots import Slots
from sockaccel.core.stats import Statistics

log = structlog.stdlib.get_logger()

# A sweep starts SWEEP_AFTER_S after it is first requested, so that requests share one. After a sweep of t seconds
# the daemon waits 10 t, so sweeping costs at most 9 % of a CPU.
SWEEP_AFTER_S, REST = 0.005, 10
# How often the log says that a limit is reached.
_SAY_AGAIN_S = 3600.0
# How long after a search that was for the sake of a place for listeners another one may be.
_SEARCH_AGAIN_S = 60.0


class _Limit:
    """Says in the log that a limit is reached: at once, then once an hour, each time with how many it was."""

    def __init__(self, clock: Clock, sentence: str, message_id: str) -> None:
        self._clock = clock
        self._sentence = sentence
        self._message_id = message_id
        self._told = 0
        self._quiet_until = float('-inf')

    def reached(self, turned_away: int) -> None:
        """turned_away: how many there was no place for so far."""
        if turned_away <= self._told or self._clock.time() < self._quiet_until:
            return
        log.warning(
            self._sentence.format(turned_away - self._told),
            message_id=self._message_id,
            turned_away=turned_away - self._told,
        )
        self._told = turned_away
        self._quiet_until = self._clock.time() + _SAY_AGAIN_S


# After a walk that failed the next one begins so many seconds later, and after twice as many if that fails too.
RETRY_AFTER_S, RETRY_AT_LEAST_EVERY_S = 0.1, 60.0


class Sweeper:
    """on_event: told of each end that a sweep took out of the map. on_drained: a sweep changed what drains."""

    def __init__(
        self,
        kernel: Kernel,
        slots: Slots,
        statistics: Statistics,
        clock: Clock,
        on_event: Callable[[Event], None],
        on_drained: Callable[[], None],
    ) -> None:
        self._kernel = kernel
        self._slots = slots
        self._statistics = statistics
        self._clock = clock
        self._on_event = on_event
        self._on_drained = on_drained
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._rest_until = 0.0
        self._must_find_sockets = False
        self._listeners_turned_away = 0
        self._search_again_at = float('-inf')
        self._ends = _Limit(
            clock,
            'Does not keep track of {} ends of connections, and leaves them to TCP: as many are kept as '
            'MaximumConnections= allows',
            messages.MAP_FULL,
        )
        self._listeners = _Limit(
            clock,
            f'Cannot remember {{}} listeners of targets for good: {MAX_TARGET_LISTENERS} are open. Connections to '
            'them from outside their targets may stay with TCP',
            messages.LISTENERS_FULL,
        )
        self._retry_after_s = RETRY_AFTER_S

    def sweep(self) -> list[Event]:
        """Sweep now; returns the ends that drain. OSError."""
        begun = self._clock.time()
        result = self._kernel.sweep()
        now = self._rest_since(begun)
        for event in result.evicted:
            self._on_event(event)
        self._slots.set_draining(result.draining)
        self._tell_limits(result)
        if result.next_due_s is not None and self._slots.enabled:
            self.request(result.next_due_s - now)
        # While ends drain the program stays attached: it takes a socket out of the map that connects anew.
        if not self._slots.enabled and not self._slots.draining:
            self._kernel.detach()
        return result.draining

    def _tell_limits(self, result: SweepResult) -> None:
        self._ends.reached(result.ends_turned_away)
        self._listeners.reached(result.listeners_turned_away)
        grown = result.listeners_turned_away > self._listeners_turned_away
        if grown and self._clock.time() >= self._search_again_at:
            # It forgets those that are closed. If there are too many still, it turns some away itself.
            self.find_sockets_soon()
            self._search_again_at = self._clock.time() + _SEARCH_AGAIN_S
        self._listeners_turned_away = result.listeners_turned_away

    def sweep_or_later(self) -> None:
        """Sweep now; log a failure, and try again later, with growing waits."""
        self._try(self.sweep)

    def request(self, seconds: float) -> None:
        """Sweep so many seconds from now, but not before the rest is over. The earliest request counts."""
        at = max(self._clock.time() + max(seconds, SWEEP_AFTER_S), self._rest_until)
        if self._timer:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._clock.call_at(at, self._due)

    def cancel(self) -> None:
        """Forget what was requested."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def find_sockets_soon(self) -> None:
        """With the next sweep, once for all who ask until then: it takes long where many files are open."""
        self._must_find_sockets = True
        self.request(0)

    def find_sockets(self) -> None:
        """Let the kernel side note listeners that were there before, and log the connections that were missed."""
        begun = self._clock.time()
        before = self._statistics.missed()
        self._kernel.find_sockets()
        for slot, (then, now) in enumerate(zip(before, self._statistics.missed(), strict=True)):
            if now > then:
                name = self._slots.name(slot)
                log.info(
                    f'Missed {now - then} connections of "{name}": they are older than its enabling, and stay '
                    'with TCP until their programs connect anew',
                    target=name,
                )
        self._must_find_sockets = False
        self._rest_since(begun)

    def adopt(self) -> None:
        """Let connections join now that were there before their target. Those that cannot yet join later.

        So do all if there was a search a moment ago.
        """
        if self._must_find_sockets and self._clock.time() >= self._rest_until:
            self._try(self.find_sockets)
        self._try(self.sweep)

    def _due(self) -> None:
        self._timer = None
        before = self._slots.draining
        done = self._try(self.sweep)
        if before != self._slots.draining:
            self._on_drained()
        if self._must_find_sockets:
            done = self._try(self.find_sockets) and done
        if done:
            self._retry_after_s = RETRY_AFTER_S

    def _try(self, work: Callable[[], object]) -> bool:
        """Whether it was done. If not, let another sweep be due, and none before it: the kernel may have no memory
        left for a while, and whoever waits for a sweep must not wait for ever.
        """
        try:
            work()
        except OSError as exc:
            wait = self._retry_after_s
            self._retry_after_s = min(2 * wait, RETRY_AT_LEAST_EVERY_S)
            log.error(f'A walk over the sockets failed ({exc}); the next attempt is in {wait:.1f} s, ignoring')
            self._rest_until = self._clock.time() + wait
            self.request(wait)
            return False
        return True

    def _rest_since(self, begun: float) -> float:
        """Start no sweep for REST times the seconds since `begun`; returns the time now."""
        now = self._clock.time()
        self._rest_until = max(self._rest_until, now + REST * (now - begun))
        return now
