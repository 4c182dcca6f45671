# SPDX-License-Identifier: GPL-2.0-or-later
"""The core: which targets are wanted, and what the kernel must hold for that. Knows no D-Bus, systemd or BCC."""

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

import structlog

from sockaccel.core import messages
from sockaccel.core.cgroup import Cgroup, Place
from sockaccel.core.connection import Counter, Event, EventKind
from sockaccel.core.desired import Desired, Slot
from sockaccel.core.finding import Finding
from sockaccel.core.limits import MAX_TARGETS
from sockaccel.core.protocols import Kernel, Memory, TargetFlag, Urgency
from sockaccel.core.target import Target, quote
from sockaccel.errors import InvalidTarget, KernelIssue, LimitExceeded, SockaccelError, UnknownTarget
from sockaccel.systemd.cgroups import Cgroups

log = structlog.stdlib.get_logger()

# From the first reason for a sweep, which may be a new connection, to the sweep; and how many times as long as a
# sweep takes the daemon rests before the next.
SWEEP_AFTER_S, SWEEP_REST = 0.005, 10


class State(Enum):
    ACTIVE = 'active'
    WAITING = 'waiting'
    REFUSED = 'refused'
    DRAINING = 'draining'


@dataclass
class Enabled:
    """An enabled target, which has a slot. baseline: what the slot's counters stood at when it was enabled.

    why: what it waits for, '' if it has a cgroup.
    """

    target: Target
    slot: int
    generation: int
    baseline: tuple[int, ...]
    cgroup: Cgroup | None = None
    why: str = ''
    listeners: frozenset[tuple[str, int]] = frozenset()


@dataclass(frozen=True)
class Policy:
    """What the configuration says.

    accepted_issues: names of findings that Enable may pass over; join_after_s: how old a connection is when it may
    join.
    """

    accepted_issues: frozenset[str] = frozenset()
    blocking_readers: bool = False
    join_after_s: float = 0.1


@dataclass(frozen=True)
class TargetStatus:
    name: str
    state: State
    detail: str


@dataclass
class Engine:
    """One lock around every change of what is wanted; each change is done, or undone and raised."""

    kernel: Kernel
    cgroups: Cgroups
    counters: list[Counter]
    findings: list[Finding]
    memory: Memory
    desired: Desired = field(default_factory=Desired)
    policy: Policy = field(default_factory=Policy)
    on_event: Callable[[Event, str], None] = lambda _event, _target: None
    on_change: Callable[[], None] = lambda: None
    _enabled: dict[str, Enabled] = field(default_factory=dict)
    _refused: dict[str, str] = field(default_factory=dict)
    # How many sockets cannot leave yet, by slot; only of slots that no target uses any more.
    _draining: dict[int, int] = field(default_factory=dict)
    _slot_names: dict[int, str] = field(default_factory=dict)
    _generation: int = 0
    # What the counters of a slot stood at when they were reset.
    _zero: dict[int, list[int]] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _sweep_timer: asyncio.TimerHandle | None = None
    _sweep_at: float = 0
    _rested_at: float = 0
    _must_find_sockets: bool = False

    async def start(self) -> None:
        """Take up what is remembered, and what the kernel still holds from before; the rest of that drains.

        A target that cannot be enabled any more stays remembered, and is listed as refused.
        """
        async with self._lock:
            self.cgroups.on_move = self._follow
            held = self.kernel.target_slots()
            self._generation = max(generation for generation, _flags in held)
            slots = {slot.name: number for number, slot in self.desired.slots.items()}
            self._slot_names = {number: slot.name for number, slot in self.desired.slots.items()}
            self.kernel.serve_nobody()
            for name in self.desired.targets():
                number = slots.get(name, 0)
                await self._resume(name, number if self._is_held(number, held) else 0)
            in_use = self._slots_in_use()
            for number, (generation, flags) in enumerate(held):
                if flags and number not in in_use:
                    self.kernel.set_target(number, generation, TargetFlag(0))
            wanted = {enabled.cgroup.id: enabled.slot for enabled in self._enabled.values() if enabled.cgroup}
            for cgroup_id, number in self.kernel.covered().items():
                if wanted.get(cgroup_id) != number:
                    self.kernel.uncover(cgroup_id)
            self._sweep()
            try:
                await self._remember(self.desired)
            except SockaccelError as exc:
                log.warning(f'The next start may count anew: {exc}, ignoring')

    async def enable(self, name: str, accept: Iterable[str] = (), *, runtime: bool = False, by: str = '') -> None:
        """Accelerate a target's connections from now on; again is no change.

        accept: names of kernel issues that the caller puts up with. runtime: only until the daemon is stopped. by:
        who asks, for the journal. Raises InvalidTarget, KernelIssue, LimitExceeded, KernelRefused, StateNotSaved.
        """
        target = Target.parse(name)
        accepted = frozenset(accept)
        self._check_issues(target, accepted)
        async with self._lock:
            enabled = self._enabled.get(target.name)
            is_new = enabled is None
            if enabled is None:
                enabled = await self._bring_in(target)
            desired = self.desired.copy()
            desired.enable(target.name, accepted, runtime=runtime)
            try:
                await self._remember(desired)
            except BaseException:
                if is_new:
                    self._let_go(enabled)
                raise
            self._refused.pop(target.name, None)
        if is_new:
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
            enabled = self._enabled.get(target.name)
            if enabled is None and target.name not in self._refused:
                raise UnknownTarget(f'target {quote(target.name)} is not enabled, so nothing was changed')
            desired = self.desired.copy()
            desired.disable(target.name, runtime=runtime)
            # The file first: a target that is off and comes back by itself would surprise.
            await self._remember(desired)
            self._refused.pop(target.name, None)
            if enabled:
                self._let_go(enabled)
        left = self._draining.get(enabled.slot, 0) if enabled else 0
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
        """Put another policy in force, for the enabled targets too, and try again what was refused."""
        async with self._lock:
            self.policy = policy
            for enabled in self._enabled.values():
                self.kernel.set_target(enabled.slot, enabled.generation, self._flags())
            for name in list(self._refused):
                del self._refused[name]
                await self._resume(name, 0)
        self.on_change()

    async def stop(self) -> list[Event]:
        """Switch everything off; returns the sockets that stay in the map until their owners close them."""
        async with self._lock:
            for enabled in self._enabled.values():
                self._switch_off(enabled)
            self._enabled.clear()
            held = self._sweep()
            self.kernel.detach()
            self._cancel_sweep()
            self.memory.forget_runtime()
        return held

    async def leave(self) -> None:
        """End without a change in the kernel: the next daemon takes over."""
        async with self._lock:
            self._cancel_sweep()

    def targets(self) -> list[TargetStatus]:
        """Enabled targets, then those that were refused, then those that are disabled and drain."""
        rows = []
        for enabled in self._enabled.values():
            state = State.ACTIVE if enabled.cgroup else State.WAITING
            detail = f'cgroup {enabled.cgroup.path}' if enabled.cgroup else enabled.why
            if enabled.target.name in self.desired.runtime:
                detail += '; until sockaccel is stopped'
            rows.append(TargetStatus(enabled.target.name, state, detail))
        rows += [TargetStatus(name, State.REFUSED, why) for name, why in self._refused.items()]
        for slot, sockets in self._draining.items():
            name = self._slot_names.get(slot, '')
            rows.append(TargetStatus(name, State.DRAINING, f'{sockets} sockets hold unread bytes'))
        return rows

    def stats(self) -> dict[str, int]:
        """Every counter since the daemon's programs were loaded, summed over all targets, by name."""
        table = self.kernel.counters()
        return self._named([sum(column) for column in zip(*table, strict=True)])

    def target_stats(self, name: str) -> dict[str, int]:
        """The counters of one enabled target, since it was enabled. Raises UnknownTarget."""
        enabled = self._enabled_target(name)
        now = self.kernel.counters()[enabled.slot]
        return self._named([value - before for value, before in zip(now, enabled.baseline, strict=True)])

    def stats_since_reset(self, name: str) -> dict[str, int]:
        """Every counter, or those of one enabled target, since `reset_counters`. Raises UnknownTarget."""
        table, slots = self.kernel.counters(), range(MAX_TARGETS)
        zero = [self._zero.get(slot, [0] * len(self.counters)) for slot in slots]
        if name:
            enabled = self._enabled_target(name)
            slots = range(enabled.slot, enabled.slot + 1)
            zero[enabled.slot] = [max(pair) for pair in zip(zero[enabled.slot], enabled.baseline, strict=True)]
        rows = [[now - then for now, then in zip(table[slot], zero[slot], strict=True)] for slot in slots]
        return self._named([sum(column) for column in zip(*rows, strict=True)])

    def reset_counters(self, name: str) -> None:
        """Let `stats_since_reset` begin at zero, for one enabled target or, '', for all; `stats` goes on.

        Raises UnknownTarget.
        """
        table = self.kernel.counters()
        slots = [self._enabled_target(name).slot] if name else range(MAX_TARGETS)
        self._zero |= {slot: table[slot] for slot in slots}

    def target_of_slot(self, slot: int) -> str:
        """The name of the target that has a slot, or had it last; '' for none."""
        return self._slot_names.get(slot, '')

    def _enabled_target(self, name: str) -> Enabled:
        enabled = self._enabled.get(name)
        if enabled is None:
            raise UnknownTarget(f'target {quote(name)} is not enabled')
        return enabled

    def reason(self, index: int) -> Counter | None:
        """What an event's reason means; None for none."""
        return self.counters[index] if 0 < index < len(self.counters) else None

    def receive(self, event: Event) -> None:
        """An event of the kernel's; one that only wakes tells nothing else."""
        if event.kind is not EventKind.SWEEP_WANTED:
            self.on_event(event, self._slot_names.get(event.slot, ''))

    def consume(self) -> None:
        """Let the kernel's events be received; a sweep that somebody wants is made in time."""
        self.kernel.consume()
        urgency = self.kernel.sweep_wanted()
        if urgency is not Urgency.NONE:
            self._sweep_after(0 if urgency is Urgency.NOW else self.policy.join_after_s)

    def _check_issues(self, target: Target, accepted: frozenset[str]) -> None:
        issues = {finding.name: finding for finding in self.findings if finding.severity == 'issue'}
        for name in sorted(accepted - {finding.name for finding in self.findings}):
            raise KernelIssue(f'there is no kernel issue named {quote(name)}; see "sockaccelctl doctor"')
        for name, finding in issues.items():
            if name not in accepted | self.policy.accepted_issues:
                raise KernelIssue(
                    f'{quote(target.name)} was not enabled: {finding.sentence}. If none of its programs does '
                    f'that, accept it: sockaccelctl enable --accept {name} {target.name}'
                )

    async def _resume(self, name: str, slot: int) -> None:
        """Enable what is remembered, in a slot that it had before; 0 for any."""
        try:
            target = Target.parse(name)
            self._check_issues(target, self.desired.targets()[name])
            await self._bring_in(target, slot, must_exist=False)
        except SockaccelError as exc:
            self._refused[name] = str(exc)
            log.warning(f'The remembered target {quote(name)} cannot be enabled: {exc}; until then ignoring it')

    async def _bring_in(self, target: Target, slot: int = 0, *, must_exist: bool = True) -> Enabled:
        place = await self.cgroups.follow(target, must_exist=must_exist)
        try:
            if other := self._owner_of(place.cgroup):
                raise InvalidTarget(
                    f'{quote(target.name)} is the cgroup of {quote(other.target.name)}, which is enabled already'
                )
            enabled = self._switch_on(target, place, slot)
        except BaseException:
            self.cgroups.forget(target.name)
            raise
        self._enabled[target.name] = enabled
        return enabled

    def _let_go(self, enabled: Enabled) -> None:
        del self._enabled[enabled.target.name]
        self.cgroups.forget(enabled.target.name)
        self._switch_off(enabled)
        self._sweep()
        # Its cgroup may be that of another target too.
        for name, other in self._enabled.items():
            if not other.cgroup:
                self._follow(name)

    def _follow(self, name: str) -> None:
        """A target's cgroup is another one now, or none."""
        enabled = self._enabled.get(name)
        if not enabled:
            return
        place = self.cgroups.place(name)
        cgroup, why = place.cgroup, place.why
        if other := self._owner_of(cgroup, enabled):
            cgroup, why = None, f'its cgroup is that of {quote(other.target.name)}, which is enabled already'
        before, enabled.cgroup, enabled.why = enabled.cgroup, cgroup, why
        if place.listeners != enabled.listeners:
            self.kernel.serve_no_more(enabled.listeners - place.listeners)
            enabled.listeners = place.listeners
            self.kernel.serve(place.listeners, enabled.slot)
        if cgroup == before:
            return
        if before:
            self.kernel.uncover(before.id)
        if cgroup:
            self.kernel.cover(cgroup.id, enabled.slot)
            self._find_sockets_soon()
            log.info(f'Covers "{name}" (cgroup "{cgroup.path}")', target=name, cgroup=cgroup.path)
        else:
            log.info(f'Waits for "{name}": {why}', target=name)
        self.on_change()

    def _owner_of(self, cgroup: Cgroup | None, but: Enabled | None = None) -> Enabled | None:
        for other in self._enabled.values():
            if other is not but and cgroup and other.cgroup and other.cgroup.id == cgroup.id:
                return other
        return None

    def _is_held(self, number: int, held: list[tuple[int, TargetFlag]]) -> bool:
        """Whether the kernel's slot still is what is remembered of it."""
        slot = self.desired.slots.get(number)
        return bool(
            slot
            and 0 < number < len(held)
            and held[number] == (slot.generation, held[number][1] | TargetFlag.ON)
            and len(slot.baseline) == len(self.counters)
        )

    def _flags(self) -> TargetFlag:
        return TargetFlag.ON | (TargetFlag.BLOCKING_READERS if self.policy.blocking_readers else TargetFlag(0))

    def _switch_on(self, target: Target, place: Place, slot: int) -> Enabled:
        """slot: one that the target has in the kernel already, 0 for none."""
        cgroup = place.cgroup
        if slot:
            was = self.desired.slots[slot]
            enabled = Enabled(target, slot, was.generation, was.baseline, cgroup, place.why, place.listeners)
        else:
            slot = self._free_slot()
            self._generation += 1
            baseline = tuple(self.kernel.counters()[slot])
            enabled = Enabled(target, slot, self._generation, baseline, cgroup, place.why, place.listeners)
        root = self.cgroups.open_root()
        try:
            newly_attached = self.kernel.attach(root)
        finally:
            os.close(root)
        try:
            self.kernel.set_target(slot, enabled.generation, self._flags())
            if cgroup:
                self.kernel.cover(cgroup.id, slot)
            self.kernel.serve(place.listeners, slot)
            self._slot_names[slot] = target.name
            # Later ones are told of by the kernel.
            if newly_attached:
                self._find_sockets()
            else:
                self._find_sockets_soon()
        except BaseException:
            self._switch_off(enabled)
            if newly_attached:
                self.kernel.detach()
            raise
        return enabled

    def _switch_off(self, enabled: Enabled) -> None:
        self.kernel.serve_no_more(enabled.listeners)
        if enabled.cgroup:
            self.kernel.uncover(enabled.cgroup.id)
        self.kernel.set_target(enabled.slot, enabled.generation, TargetFlag(0))

    async def _remember(self, desired: Desired) -> None:
        """Raises StateNotSaved, and then what is desired is what it was."""
        slots = {enabled.slot: enabled for enabled in self._enabled.values()}
        desired.slots = {
            number: Slot(enabled.target.name, enabled.generation, enabled.baseline)
            for number, enabled in slots.items()
        }
        desired.slots |= {
            number: Slot(self._slot_names.get(number, ''), 0, ())
            for number in self._draining
            if number not in slots
        }
        # It may take the disk a while.
        await asyncio.to_thread(self.memory.write, desired)
        self.desired = desired

    def _cancel_sweep(self) -> None:
        if self._sweep_timer:
            self._sweep_timer.cancel()
            self._sweep_timer = None

    def _slots_in_use(self) -> set[int]:
        return {enabled.slot for enabled in self._enabled.values()}

    def _free_slot(self) -> int:
        """Slot 0 belongs to nobody; one that still drains keeps its name."""
        taken = self._slots_in_use() | set(self._draining)
        # The least recently used first, so that late events still find their target's name.
        for slot in sorted(range(1, MAX_TARGETS), key=lambda slot: (slot in self._slot_names, slot)):
            if slot not in taken:
                return slot
        raise LimitExceeded(
            f'{MAX_TARGETS - 1} targets are enabled or draining, which is the limit: disable one first'
        )

    def _named(self, values: list[int]) -> dict[str, int]:
        prefix = {'total': '', 'connection': 'connection_reason_', 'message': 'message_reason_'}
        return {
            prefix[counter.kind] + counter.name: value
            for counter, value in zip(self.counters, values, strict=True)
        }

    def _sweep(self) -> list[Event]:
        """Returns what cannot leave yet."""
        begun = time.monotonic()
        result = self.kernel.sweep()
        now = self._rest(begun)
        for event in result.evicted:
            self.on_event(event, self._slot_names.get(event.slot, ''))
        in_use = self._slots_in_use()
        self._draining = {}
        for event in result.draining:
            if event.slot not in in_use:
                self._draining[event.slot] = self._draining.get(event.slot, 0) + 1
        if result.next_due_s is not None and self._enabled:
            self._sweep_after(result.next_due_s - now)
        # A draining socket that connects anew must find the program that takes it out of the map first.
        if not self._enabled and not self._draining:
            self.kernel.detach()
        return result.draining

    def _rest(self, begun: float) -> float:
        """Let no sweep begin for some time after what has just been done; returns the time it is."""
        now = time.monotonic()
        self._rested_at = max(self._rested_at, now + SWEEP_REST * (now - begun))
        return now

    def _sweep_after(self, seconds: float) -> None:
        """Soon enough for the most urgent reason, once for all, and never so often that it loads the machine."""
        at = max(time.monotonic() + max(seconds, SWEEP_AFTER_S), self._rested_at)
        if self._sweep_timer:
            if self._sweep_at <= at:
                return
            self._sweep_timer.cancel()
        self._sweep_at = at
        loop = asyncio.get_running_loop()
        self._sweep_timer = loop.call_later(at - time.monotonic(), self._sweep_now)

    def _find_sockets_soon(self) -> None:
        """Once for all that changes meanwhile: it takes a while where there are many open files."""
        self._must_find_sockets = True
        self._sweep_after(0)

    def _find_sockets(self) -> None:
        begun = time.monotonic()
        before = self._missed()
        self.kernel.find_sockets()
        for slot, (then, now) in enumerate(zip(before, self._missed(), strict=True)):
            if now > then:
                name = self._slot_names.get(slot, '')
                log.info(
                    f'Missed {now - then} connections of "{name}": they were made before its cgroup was covered, '
                    'and stay with TCP until their programs connect anew',
                    target=name,
                )
        self._must_find_sockets = False
        self._rest(begun)

    def _missed(self) -> list[int]:
        """How many connections were missed, by slot."""
        index = next(index for index, counter in enumerate(self.counters) if counter.name == 'missed')
        return [row[index] for row in self.kernel.counters()]

    def _sweep_now(self) -> None:
        self._sweep_timer = None
        before = dict(self._draining)
        self._sweep()
        if before != self._draining:
            self.on_change()
        if self._must_find_sockets:
            self._find_sockets()


def asked_by(by: str) -> str:
    """The end of a line that tells who wanted it."""
    return f', asked by {by}' if by else ''
