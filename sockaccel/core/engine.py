# SPDX-License-Identifier: GPL-2.0-or-later
"""The core as the bus and the daemon see it: which targets are wanted, and what becomes of them."""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from sockaccel.core import messages
from sockaccel.core.connection import Counter, Event, EventKind
from sockaccel.core.desired import Desired
from sockaccel.core.finding import Finding
from sockaccel.core.policy import Policy
from sockaccel.core.protocols import Cgroups, Clock, Kernel, Memory, Urgency
from sockaccel.core.slots import Slots
from sockaccel.core.stats import Statistics
from sockaccel.core.sweeping import Sweeper
from sockaccel.core.target import State, Target, TargetStatus
from sockaccel.core.transactions import Transactions

log = structlog.stdlib.get_logger()


class Engine:
    """One lock around every change of what is wanted.

    desired: what was remembered. on_event: told of each connection event with its target's name. on_change: called
    when `targets` gives another answer.
    """

    def __init__(
        self,
        kernel: Kernel,
        cgroups: Cgroups,
        memory: Memory,
        clock: Clock,
        counters: list[Counter],
        findings: list[Finding],
        desired: Desired,
        policy: Policy,
    ) -> None:
        self.counters = counters
        self.findings = findings
        self.on_event: Callable[[Event, str], None] = lambda _event, _target: None
        self.on_change: Callable[[], None] = lambda: None
        self._kernel = kernel
        self._cgroups = cgroups
        self._slots = Slots()
        self._statistics = Statistics(kernel, counters, self._slots)
        self._sweeper = Sweeper(kernel, self._slots, self._statistics, clock, self.receive, self._changed)
        self._transactions = Transactions(
            kernel, cgroups, memory, self._slots, self._sweeper, self._statistics, findings, desired, policy,
            self._changed,
        )  # fmt: skip
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Enable what is remembered, and let what else the kernel holds of an earlier daemon drain.

        A target that cannot be enabled any more stays remembered, and is listed as refused.
        """
        async with self._lock:
            self._cgroups.when_moved(self._transactions.moved)
            await self._transactions.resume()

    async def enable(
        self, name: str, accept: Iterable[str] = (), *, runtime: bool = False, wait: bool = False, by: str = ''
    ) -> None:
        """Accelerate a target's connections from now on. A repeated call is no error.

        accept: names of kernel issues that the caller accepts. runtime: only until the daemon is stopped. wait:
        also what does not exist yet. by: who asks, for the journal. Raises InvalidTarget, KernelIssue,
        LimitExceeded, KernelRefused, StateNotSaved.
        """
        target = Target.parse(name)
        async with self._lock:
            enabled = await self._transactions.enable(target, frozenset(accept), runtime=runtime, wait=wait)
        if enabled:
            where = f'cgroup "{enabled.cgroup.path}"' if enabled.cgroup else f'waiting: {enabled.why}'
            log.info(
                f'Enabled "{target.name}" ({where}){asked_by(by)}',
                message_id=messages.ENABLED,
                target=target.name,
                cgroup=enabled.cgroup and enabled.cgroup.path,
                caller=by,
            )
        self.on_change()

    async def disable(self, name: str, *, runtime: bool = False, by: str = '') -> None:
        """Let a target's connections go back to TCP, losing nothing.

        runtime: only until the daemon is stopped. by: who asks, for the journal. Raises InvalidTarget,
        UnknownTarget, StateNotSaved.
        """
        target = Target.parse(name)
        async with self._lock:
            left = await self._transactions.disable(target, runtime=runtime)
        tail = f'; {left} sockets still hold unread bytes and drain' if left else ''
        log.info(
            f'Disabled "{target.name}"{tail}{asked_by(by)}',
            message_id=messages.DISABLED,
            target=target.name,
            draining=left,
            caller=by,
        )
        self.on_change()

    async def reload(self, policy: Policy) -> None:
        """Put another policy in force for every target, and try again to enable what was refused."""
        async with self._lock:
            await self._transactions.reload(policy)
        self.on_change()

    async def stop(self) -> list[Event]:
        """Switch everything off; returns the ends that stay in the map until their owners close them."""
        async with self._lock:
            return self._transactions.stop()

    async def leave(self) -> None:
        """Change nothing in the kernel from here on: the next daemon takes over."""
        async with self._lock:
            self._sweeper.cancel()

    def targets(self) -> list[TargetStatus]:
        """Enabled targets, then those that were refused, then those that are disabled and drain."""
        rows = []
        desired = self._transactions.desired
        accepted, runtime = desired.targets(), desired.runtime
        for name, enabled in self._slots.enabled.items():
            state = State.ACTIVE if enabled.cgroup else State.WAITING
            cgroup = enabled.cgroup.path if enabled.cgroup else ''
            detail = f'cgroup {cgroup}' if cgroup else enabled.why
            if name in runtime:
                detail += '; until sockaccel is stopped'
            given = accepted.get(name, frozenset())
            rows.append(TargetStatus(name, state, detail, cgroup, name in runtime, given))
        for name, why in self._transactions.refused.items():
            given = accepted.get(name, frozenset())
            rows.append(TargetStatus(name, State.REFUSED, why, runtime=name in runtime, accepted=given))
        for slot, ends in self._slots.draining.items():
            detail = f'{ends} sockets hold unread bytes'
            rows.append(TargetStatus(self._slots.name(slot), State.DRAINING, detail, draining=ends))
        return rows

    def stats(self) -> dict[str, int]:
        """See Statistics.total."""
        return self._statistics.total()

    def target_stats(self, name: str) -> dict[str, int]:
        """See Statistics.of_target. Raises UnknownTarget."""
        return self._statistics.of_target(name)

    def stats_since_reset(self, name: str) -> dict[str, int]:
        """See Statistics.since_reset. Raises UnknownTarget."""
        return self._statistics.since_reset(name)

    def reset_counters(self, name: str) -> None:
        """See Statistics.reset. Raises UnknownTarget."""
        self._statistics.reset(name)

    def reason(self, index: int) -> Counter | None:
        """What an event's reason means, None for none."""
        return self._statistics.reason(index)

    def target_of_slot(self, slot: int) -> str:
        """The name of the target that has a slot, or had it last; '' for none."""
        return self._slots.name(slot)

    def receive(self, event: Event) -> None:
        """Take an event of the kernel side. SWEEP_WANTED has done its work when it has woken the daemon."""
        if event.kind is not EventKind.SWEEP_WANTED:
            self.on_event(event, self._slots.name(event.slot))

    def consume(self) -> None:
        """Receive the waiting events, and request the sweep that the BPF programs want."""
        self._kernel.consume()
        urgency = self._kernel.sweep_wanted()
        if urgency is not Urgency.NONE:
            self._sweeper.request(0 if urgency is Urgency.NOW else self._transactions.policy.join_after_s)

    def _changed(self) -> None:
        # The daemon sets on_change after the start.
        self.on_change()


def asked_by(by: str) -> str:
    """The end of a line that names who asked for a change."""
    return f', asked by {by}' if by else ''
