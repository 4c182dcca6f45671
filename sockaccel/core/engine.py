# SPDX-License-Identifier: GPL-2.0-or-later
"""The core as the bus and the daemon see it: which targets are wanted, and what becomes of them."""

import asyncio
from collections.abc import Callable

import structlog

from sockaccel.core import messages
from sockaccel.core.audit import Report, Terms, report
from sockaccel.core.auditing import DEFAULT_S, Auditor, parse_seconds
from sockaccel.core.connection import Counter, Event, EventKind
from sockaccel.core.desired import Desired
from sockaccel.core.finding import Finding
from sockaccel.core.policies import Policies, Settings
from sockaccel.core.policy import Policy
from sockaccel.core.probation import Probations
from sockaccel.core.programs import Programs
from sockaccel.core.protocols import Cgroups, Clock, Kernel, Memory, Urgency
from sockaccel.core.slots import Enabled, Slots
from sockaccel.core.stats import Statistics
from sockaccel.core.sweeping import Sweeper
from sockaccel.core.target import State, Target, TargetStatus
from sockaccel.core.transactions import Transactions

log = structlog.stdlib.get_logger()


class Engine:
    """One lock around every change of what is wanted.

    desired: what was remembered. policies: what the files say. on_event: told of each connection event with its
    target's name. on_change: called when `targets` gives another answer.
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
        policies: Policies,
        programs: Programs,
    ) -> None:
        self.counters = counters
        self.programs = programs
        self.findings = findings
        self.on_event: Callable[[Event, str], None] = lambda _event, _target: None
        self.on_change: Callable[[], None] = lambda: None
        # Called when a watcher has seen something new of a program.
        self.on_program: Callable[[], None] = lambda: None
        self._kernel = kernel
        self._cgroups = cgroups
        self._slots = Slots()
        self._statistics = Statistics(kernel, counters, self._slots)
        self._sweeper = Sweeper(kernel, self._slots, self._statistics, clock, self.receive, self._changed)
        self._transactions = Transactions(
            kernel, cgroups, memory, self._slots, self._sweeper, self._statistics, findings, desired, policies,
            programs, self._changed,
        )  # fmt: skip
        self._lock = asyncio.Lock()
        self._auditor = Auditor(kernel, cgroups, self._slots, clock, self._lock)
        self._probations = Probations(self._auditor, self._changed)

    async def start(self) -> None:
        """Enable what is remembered or of a file, and let what else the kernel holds of an earlier daemon drain.

        A target that cannot be enabled stays remembered, and is listed as refused.
        """
        async with self._lock:
            self._cgroups.when_moved(self._transactions.moved)
            await self._transactions.resume()

    async def enable(
        self,
        name: str,
        settings: Settings | None = None,
        *,
        runtime: bool = False,
        wait: bool = False,
        by: str = '',
    ) -> None:
        """Accelerate a target's connections from now on. A repeated call is no error.

        settings: what shall be different in its policy; an empty text brings a key's default back. runtime: only
        until the daemon is stopped. wait: also what does not exist yet. by: who asks, for the journal. Raises
        InvalidTarget, InvalidArgument, ManagedByFile, KernelIssue, LimitExceeded, KernelRefused, StateNotSaved.
        """
        target = Target.parse(name)
        async with self._lock:
            enabled = await self._transactions.enable(target, settings or {}, runtime=runtime, wait=wait)
        self._tell_enabled(target, enabled, by)
        await self._probations.end(target.name)
        self.on_change()

    async def set_policy(self, name: str, settings: Settings, *, by: str = '') -> None:
        """Change the policy of a target that is enabled. settings, by: see `enable`.

        One that was refused, and can be enabled with the new policy, is enabled. Raises UnknownTarget and what
        `enable` raises.
        """
        target = Target.parse(name)
        async with self._lock:
            enabled = await self._transactions.set_policy(target, settings)
        said = ' '.join(f'{key}={text}' for key, text in settings.items())
        log.info(
            f'Policy of "{target.name}" changed: {said}{asked_by(by)}',
            message_id=messages.POLICY_CHANGED,
            target=target.name,
            caller=by,
        )
        self._tell_enabled(target, enabled, by)
        self.on_change()

    def _tell_enabled(self, target: Target, enabled: Enabled | None, by: str) -> None:
        """enabled: what is enabled since this call, None for nothing."""
        if enabled:
            where = f'cgroup "{enabled.cgroup.path}"' if enabled.cgroup else f'waiting: {enabled.why}'
            log.info(
                f'Enabled "{target.name}" ({where}){asked_by(by)}',
                message_id=messages.ENABLED,
                target=target.name,
                cgroup=enabled.cgroup and enabled.cgroup.path,
                caller=by,
            )

    async def enable_after(
        self, seconds: int, name: str, settings: Settings | None = None, *, runtime: bool = False, by: str = ''
    ) -> None:
        """Watch a target for so long, then enable it if that would hurt no program that was seen.

        Returns at once; `targets` tells how it goes. settings, runtime, by: see `enable`. Raises what that does.
        """
        target, seconds = Target.parse(name), parse_seconds(seconds)
        # What would be refused then is refused now.
        policy = self._transactions.check(target, settings or {}, runtime=runtime)

        async def enable() -> None:
            await self.enable(name, settings, runtime=runtime, by=f'its probation, for {by}' if by else '')

        await self._probations.begin(target, seconds, self._terms(policy), enable)
        log.info(f'Watches "{target.name}" for {seconds} s before it is enabled{asked_by(by)}', target=target.name)
        self.on_change()

    async def audit(self, name: str, seconds: int = DEFAULT_S) -> tuple[Report, Terms]:
        """Watch a target for so long and say what acceleration would change; nothing about it is changed.

        Raises InvalidTarget, LimitExceeded, SystemRefused.
        """
        target, seconds = Target.parse(name), parse_seconds(seconds)
        with self._auditor.admitted(target):
            watch = await self._auditor.run(target, seconds)
        terms = self._terms(self._transactions.policy_of(target.name))
        return report(target.name, float(seconds), watch, terms), terms

    async def disable(self, name: str, *, runtime: bool = False, by: str = '') -> None:
        """Let a target's connections go back to TCP, losing nothing.

        runtime: only until the daemon is stopped. by: who asks, for the journal. Raises InvalidTarget,
        UnknownTarget, ManagedByFile, StateNotSaved.
        """
        target = Target.parse(name)
        if await self._probations.end(target.name) and target.name not in self._slots.enabled:
            log.info(f'Ended the probation of "{target.name}"{asked_by(by)}', target=target.name, caller=by)
            self.on_change()
            return
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

    async def reload(self, policies: Policies) -> None:
        """Put in force what the files say now, and try again to enable what was refused.

        Raises InvalidConfiguration; then nothing was changed.
        """
        async with self._lock:
            await self._transactions.reload(policies)
        self.on_change()

    async def stop(self) -> list[Event]:
        """Switch everything off; returns the ends that stay in the map until their owners close them."""
        await self._probations.cancel()
        async with self._lock:
            return self._transactions.stop()

    async def leave(self) -> None:
        """Change nothing in the kernel from here on: the next daemon takes over."""
        await self._probations.cancel()
        async with self._lock:
            self._sweeper.cancel()

    def targets(self) -> list[TargetStatus]:
        """Those on probation or that did not pass it, then enabled, then refused ones, then those that drain."""
        rows = []
        for name, enabled in self._slots.enabled.items():
            state = State.ACTIVE if enabled.cgroup else State.WAITING
            cgroup = enabled.cgroup.path if enabled.cgroup else ''
            rows.append(self._row(name, state, f'cgroup {cgroup}' if cgroup else enabled.why, cgroup))
        for name, why in self._transactions.refused.items():
            rows.append(self._row(name, State.REFUSED, why))
        for slot, ends in self._slots.draining.items():
            detail = f'{ends} sockets hold unread bytes'
            rows.append(TargetStatus(self._slots.name(slot), State.DRAINING, detail, draining=ends))
        return self._probations.rows() + rows

    def _row(self, name: str, state: State, detail: str, cgroup: str = '') -> TargetStatus:
        transactions = self._transactions
        section, policy = transactions.policies.sections.get(name), transactions.policy(name)
        runtime = name in transactions.desired.runtime
        if runtime:
            detail += '; until sockaccel is stopped'
        return TargetStatus(
            name, state, detail, cgroup, runtime, section.source if section else '',
            policy.rows() if policy else (),
        )  # fmt: skip

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
        if event.kind is EventKind.PROGRAM:
            self.on_program()
        elif event.kind is not EventKind.SWEEP_WANTED:
            self.on_event(event, self._slots.name(event.slot))

    def consume(self) -> None:
        """Receive the waiting events, and request the sweep that the BPF programs want."""
        self._kernel.consume()
        urgency = self._kernel.sweep_wanted()
        if urgency is not Urgency.NONE:
            self._sweeper.request(0 if urgency is Urgency.NOW else self._transactions.join_after_s())

    def _terms(self, policy: Policy) -> Terms:
        return Terms(self.counters, self.findings, policy)

    def _changed(self) -> None:
        # The daemon sets on_change after the start.
        self.on_change()


def asked_by(by: str) -> str:
    """The end of a line that names who asked for a change."""
    return f', asked by {by}' if by else ''
