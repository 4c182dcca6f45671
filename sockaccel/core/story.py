# SPDX-License-Identifier: GPL-2.0-or-later
"""What the journal tells of connections: the first five of each kind, then one an hour, and how many it left out.

At LogLevel=debug it tells of all.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from sockaccel.core import messages
from sockaccel.core.connection import Counter, Event, EventKind, endpoint

log = structlog.stdlib.get_logger()

# Lines for each target, kind of event and reason.
_FIRST, _THEN_ONE_EVERY_S = 5, 3600.0
# Reached only by a client that enables and disables ever new targets.
_MAXIMUM_KINDS = 4096

_SENTENCES = {
    EventKind.JOINED: 'Joined {flow}',
    EventKind.REFUSED: 'Left to TCP {flow}: {why}',
    EventKind.FALLBACK: 'Falls back to TCP {flow}: {why}',
    EventKind.CLOSED: 'Closed {flow}: sent {redirected} bytes redirected, {tcp} by TCP',
    EventKind.EVICTED: 'Back to TCP {flow}: {why}',
}


@dataclass
class _Budget:
    tokens: float
    when: float
    left_out: int = 0


Kind = tuple[str, EventKind, int]


class Story:
    """reason: what an event's reason means. suppressed: how many events were above EventsPerSecond= so far."""

    def __init__(
        self,
        reason: Callable[[int], Counter | None],
        suppressed: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reason = reason
        self._suppressed = suppressed
        self._told_suppressed = 0
        self._clock = clock
        self._budgets: dict[Kind, _Budget] = {}

    def tell(self, event: Event, target: str) -> None:
        if event.kind is EventKind.BROKEN:
            self._tell_broken(event, target)
        sentence = _SENTENCES.get(event.kind)
        if sentence is None:
            return
        budget = self._budget((target, event.kind, event.reason))
        within = budget.tokens >= 1
        if not within and not logging.getLogger().isEnabledFor(logging.DEBUG):
            budget.left_out += 1
            return
        reason = self._reason(event.reason)
        text = sentence.format(
            flow=event.flow,
            why=reason.sentence if reason else 'no reason given',
            redirected=event.redirected_bytes,
            tcp=event.tcp_bytes,
        )
        if event.program:
            text += f' ({event.program}[{event.pid}])'
        if budget.left_out:
            text += f'; {budget.left_out} lines like this were left out before'
        full = reason is not None and reason.name == 'map_full'
        write = log.debug if not within else log.warning if full else log.info
        write(
            text,
            message_id=messages.MAP_FULL if full else None,
            target=target,
            src=endpoint(event.flow.local, event.flow.local_port),
            dst=endpoint(event.flow.remote, event.flow.remote_port),
            reason=reason.name if reason else None,
            program=event.program,
            left_out=budget.left_out or None,
        )
        budget.left_out = 0
        if within:
            budget.tokens -= 1
            self._tell_suppressed()

    def finish(self, targets: frozenset[str] = frozenset()) -> None:
        """Log how many lines were left out about targets that are not listed any more. targets: those that are."""
        for target in {kind[0] for kind in self._budgets} - targets:
            left_out = {
                kind: self._budgets.pop(kind).left_out for kind in list(self._budgets) if kind[0] == target
            }
            if total := sum(left_out.values()):
                parts: dict[str, int] = {}
                for (_target, kind, _reason), count in left_out.items():
                    name = kind.name.lower()
                    parts[name] = parts.get(name, 0) + count
                what = ', '.join(f'{count} {name}' for name, count in parts.items() if count)
                log.info(f'{total} lines about connections of "{target}" were left out: {what}', target=target)
        if not targets:
            self._tell_suppressed()

    def _tell_broken(self, event: Event, target: str) -> None:
        """Never left out: somebody must act."""
        program = event.program or 'a program'
        log.error(
            f'"{program}" of "{target}" reads {event.flow} by splice() while redirected bytes are unread, which '
            'it may miss: what is sent to it fails from now on, and where the kernel lets sockaccel it aborts the '
            'connection; leave this target to TCP',
            message_id=messages.STREAM_BROKEN,
            target=target,
            program=event.program,
            src=endpoint(event.flow.local, event.flow.local_port),
            dst=endpoint(event.flow.remote, event.flow.remote_port),
        )

    def _tell_suppressed(self) -> None:
        suppressed = self._suppressed()
        if suppressed > self._told_suppressed:
            log.info(
                f'{suppressed - self._told_suppressed} connection events were above EventsPerSecond= and are only '
                'counted',
                message_id=messages.EVENTS_LEFT_OUT,
            )
        self._told_suppressed = suppressed

    def _budget(self, kind: Kind) -> _Budget:
        now = self._clock()
        budget = self._budgets.get(kind)
        if budget is None:
            if len(self._budgets) >= _MAXIMUM_KINDS:
                self._budgets.clear()
            budget = self._budgets[kind] = _Budget(_FIRST, now)
        budget.tokens = min(_FIRST, budget.tokens + (now - budget.when) / _THEN_ONE_EVERY_S)
        budget.when = now
        return budget
