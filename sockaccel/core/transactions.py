# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes of what is enabled: each is done as a whole, or undone and raised."""

import asyncio
import contextlib
import os
import shlex
from collections.abc import Callable

import structlog

from sockaccel.core.cgroup import Cgroup, Place
from sockaccel.core.connection import Event
from sockaccel.core.desired import Desired
from sockaccel.core.finding import Finding
from sockaccel.core.limits import MAX_TARGET_LEVELS
from sockaccel.core.policy import Policy
from sockaccel.core.protocols import Cgroups, Kernel, Memory
from sockaccel.core.slots import Enabled, Slots
from sockaccel.core.stats import Statistics
from sockaccel.core.sweeping import Sweeper
from sockaccel.core.target import Target, quote
from sockaccel.errors import InvalidTarget, KernelIssue, LimitExceeded, SockaccelError, UnknownTarget

log = structlog.stdlib.get_logger()


class Transactions:
    """One at a time: the caller holds a lock.

    desired: what is remembered. policy: what is in force. refused: remembered targets that cannot be enabled, with
    the reason. on_change: called when the cgroup of a target is another one.
    """

    def __init__(
        self,
        kernel: Kernel,
        cgroups: Cgroups,
        memory: Memory,
        slots: Slots,
        sweeper: Sweeper,
        statistics: Statistics,
        findings: list[Finding],
        desired: Desired,
        policy: Policy,
        on_change: Callable[[], None],
    ) -> None:
        self._kernel = kernel
        self._cgroups = cgroups
        self._memory = memory
        self._slots = slots
        self._sweeper = sweeper
        self._statistics = statistics
        self._findings = findings
        self.desired = desired
        self.policy = policy
        self._on_change = on_change
        self.refused: dict[str, str] = {}

    async def resume(self) -> None:
        """Enable what is remembered, in the slots that the kernel still has of it; switch off all else there."""
        held = self._kernel.target_slots()
        slots = self._slots.take_over(self.desired.slots, held, self._statistics.width)
        self._kernel.serve_nobody()
        for name in self.desired.targets():
            await self._enable_again(name, slots.get(name, 0))
        in_use = self._slots.in_use()
        for number, (generation, is_on) in enumerate(held):
            if is_on and number not in in_use:
                self._kernel.set_target(number, generation, None)
        wanted = {each.cgroup.id: each.slot for each in self._slots.enabled.values() if each.cgroup}
        for cgroup_id, number in self._kernel.covered().items():
            if wanted.get(cgroup_id) != number:
                self._kernel.uncover(cgroup_id)
        self._sweeper.sweep()
        try:
            await self._remember(self.desired)
        except SockaccelError as exc:
            log.warning(f'The next start may give connections back to TCP and count from zero: {exc}, ignoring')

    async def enable(
        self, target: Target, accepted: frozenset[str], *, runtime: bool, wait: bool = False
    ) -> Enabled | None:
        """Returns what is enabled now, None if it was before. See Engine.enable."""
        self._check_issues(target, accepted)
        with contextlib.ExitStack() as undo:
            enabled = None
            if target.name not in self._slots.enabled:
                enabled = await self._switch_on(target, must_exist=not wait)
                undo.callback(self._let_go, enabled)
            desired = self.desired.copy()
            desired.enable(target.name, accepted, runtime=runtime)
            await self._remember(desired)
            undo.pop_all()
        self.refused.pop(target.name, None)
        return enabled

    async def disable(self, target: Target, *, runtime: bool) -> int:
        """Returns how many of the target's ends drain. See Engine.disable."""
        enabled = self._slots.enabled.get(target.name)
        if enabled is None and target.name not in self.refused:
            raise UnknownTarget(f'target {quote(target.name)} is not enabled, so nothing was changed')
        desired = self.desired.copy()
        desired.disable(target.name, runtime=runtime)
        # First: a target that is off now must not come back with the next start.
        await self._remember(desired)
        self.refused.pop(target.name, None)
        if enabled is None:
            return 0
        self._let_go(enabled)
        return self._slots.draining.get(enabled.slot, 0)

    async def reload(self, policy: Policy) -> None:
        """Put another policy in force for every target, and try again to enable what was refused."""
        self.policy = policy
        for enabled in self._slots.enabled.values():
            self._kernel.set_target(enabled.slot, enabled.generation, policy)
        for name in list(self.refused):
            del self.refused[name]
            await self._enable_again(name)

    def stop(self) -> list[Event]:
        """Switch every target off; returns the ends that drain."""
        for enabled in self._slots.enabled.values():
            self._switch_off(enabled)
        self._slots.enabled.clear()
        draining = self._sweeper.sweep()
        self._kernel.detach()
        self._sweeper.cancel()
        self._memory.forget_runtime()
        return draining

    def moved(self, name: str) -> None:
        """The place of a followed target is another one."""
        enabled = self._slots.enabled.get(name)
        if not enabled:
            return
        place = self._cgroups.place(name)
        cgroup, why = place.cgroup, place.why
        if cgroup and (deep := _too_deep(cgroup)):
            cgroup, why = None, deep
        if other := self._slots.owner_of(cgroup, enabled):
            cgroup, why = None, f'its cgroup is that of {quote(other.target.name)}, which is enabled already'
        before, enabled.cgroup, enabled.why = enabled.cgroup, cgroup, why
        if place.listeners != enabled.listeners:
            self._kernel.serve_no_more(enabled.listeners - place.listeners)
            enabled.listeners = place.listeners
            self._kernel.serve(place.listeners, enabled.slot)
            # They are remembered as listeners of a target when they are found again.
            self._sweeper.find_sockets_soon()
        if cgroup == before:
            return
        if before:
            self._kernel.uncover(before.id)
        if cgroup:
            self._kernel.cover(cgroup.id, enabled.slot)
            self._sweeper.find_sockets_soon()
            log.info(f'Covers "{name}" (cgroup "{cgroup.path}")', target=name, cgroup=cgroup.path)
        else:
            log.info(f'Waits for "{name}": {why}', target=name)
        self._on_change()

    def _check_issues(self, target: Target, accepted: frozenset[str]) -> None:
        for name in sorted(accepted - {finding.name for finding in self._findings}):
            raise KernelIssue(f'there is no kernel issue named {quote(name)}; see "sockaccelctl doctor"')
        accepted |= self.policy.accepted_issues
        left = [each for each in self._findings if each.severity == 'issue' and each.name not in accepted]
        if left:
            sentences = '. And '.join(finding.sentence for finding in left)
            options = ' '.join(f'--accept {finding.name}' for finding in left)
            raise KernelIssue(
                f'{quote(target.name)} was not enabled: {sentences}. If none of its programs does that, accept '
                f'{"it" if len(left) == 1 else "them"}: sockaccelctl enable {options} {shlex.quote(target.name)}'
            )

    async def _enable_again(self, name: str, slot: int = 0) -> None:
        """Enable what is remembered. slot: one that it has in the kernel, 0 for none."""
        try:
            target = Target.parse(name)
            self._check_issues(target, self.desired.targets()[name])
            await self._switch_on(target, slot, must_exist=False)
        except SockaccelError as exc:
            self.refused[name] = str(exc)
            log.warning(f'Ignoring the remembered target {quote(name)} until a reload or start enables it: {exc}')

    async def _switch_on(self, target: Target, slot: int = 0, *, must_exist: bool = True) -> Enabled:
        """slot, must_exist: see `_enable_again` and Cgroups.follow."""
        with contextlib.ExitStack() as undo:
            place = await self._cgroups.follow(target, must_exist=must_exist)
            undo.callback(self._cgroups.forget, target.name)
            if place.cgroup and (deep := _too_deep(place.cgroup)):
                raise LimitExceeded(f'{quote(target.name)} was not enabled: {deep}')
            if other := self._slots.owner_of(place.cgroup):
                raise InvalidTarget(
                    f'{quote(target.name)} is the cgroup of {quote(other.target.name)}, which is enabled already'
                )
            enabled = self._in_slot(target, place, slot)
            if newly_attached := self._attach():
                undo.callback(self._kernel.detach)
            # As a whole: a step that failed may have been done in part.
            undo.callback(self._switch_off, enabled)
            self._kernel.set_target(enabled.slot, enabled.generation, self.policy)
            if place.cgroup:
                self._kernel.cover(place.cgroup.id, enabled.slot)
            self._kernel.serve(place.listeners, enabled.slot)
            self._slots.set_name(enabled)
            # Attached, the BPF program sees each new listener. Of those before it knows nothing.
            if newly_attached:
                self._sweeper.find_sockets()
            else:
                self._sweeper.find_sockets_soon()
            undo.pop_all()
        self._slots.enabled[target.name] = enabled
        return enabled

    def _in_slot(self, target: Target, place: Place, slot: int) -> Enabled:
        if slot:
            return self._slots.again(target, place, slot, self.desired.slots[slot])
        slot = self._slots.free()
        return self._slots.new(target, place, slot, self._statistics.of_slot(slot))

    def _attach(self) -> bool:
        root = self._cgroups.open_root()
        try:
            return self._kernel.attach(root)
        finally:
            os.close(root)

    def _let_go(self, enabled: Enabled) -> None:
        del self._slots.enabled[enabled.target.name]
        self._cgroups.forget(enabled.target.name)
        self._switch_off(enabled)
        self._sweeper.sweep_or_later()
        # Another target may have waited for the same cgroup.
        for name, other in self._slots.enabled.items():
            if not other.cgroup:
                self.moved(name)

    def _switch_off(self, enabled: Enabled) -> None:
        self._kernel.serve_no_more(enabled.listeners)
        if enabled.cgroup:
            self._kernel.uncover(enabled.cgroup.id)
        self._kernel.set_target(enabled.slot, enabled.generation, None)

    async def _remember(self, desired: Desired) -> None:
        """Raises StateNotSaved, and then `self.desired` is what it was."""
        desired.slots = self._slots.to_remember()
        # A disk may take a while.
        await asyncio.to_thread(self._memory.write, desired)
        self.desired = desired


def _too_deep(cgroup: Cgroup) -> str:
    """Why the BPF programs would not find a target with this cgroup, '' if they would."""
    level = cgroup.path.rstrip('/').count('/')
    if level < MAX_TARGET_LEVELS:
        return ''
    return f'its cgroup is {level} levels below the root, and a target can be at most {MAX_TARGET_LEVELS - 1}'
