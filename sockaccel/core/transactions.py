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
from sockaccel.core.policies import Policies, Settings, changed
from sockaccel.core.policy import Policy
from sockaccel.core.programs import Programs
from sockaccel.core.protocols import Cgroups, Kernel, Memory
from sockaccel.core.slots import Enabled, Slots
from sockaccel.core.stats import Statistics
from sockaccel.core.sweeping import Sweeper
from sockaccel.core.target import Target, quote
from sockaccel.errors import (
    InvalidArgument,
    InvalidConfiguration,
    InvalidTarget,
    KernelIssue,
    LimitExceeded,
    ManagedByFile,
    SockaccelError,
    UnknownTarget,
)

log = structlog.stdlib.get_logger()


class Transactions:
    """One at a time: the caller holds a lock.

    desired: what is remembered. policies: what the files say. refused: targets that are remembered, or of a file,
    and cannot be enabled, with the reason. on_change: called when the cgroup of a target is another one.
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
        policies: Policies,
        programs: Programs,
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
        self.policies = policies
        self._programs = programs
        self._on_change = on_change
        self.refused: dict[str, str] = {}

    async def resume(self) -> None:
        """Enable what is remembered or of a file, in the slots that the kernel has of it; switch off all else."""
        held = self._kernel.target_slots()
        slots = self._slots.take_over(self.desired.slots, held, self._statistics.width)
        self._kernel.serve_nobody()
        for name in self._wanted():
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
        self, target: Target, settings: Settings, *, runtime: bool, wait: bool = False
    ) -> Enabled | None:
        """Returns what is enabled now, None if it was before. See Engine.enable."""
        chosen = self._choose(target, settings, runtime=runtime)
        return await self._want(target, chosen, runtime=runtime, must_exist=not wait)

    def check(self, target: Target, settings: Settings, *, runtime: bool) -> Policy:
        """What the policy of a target would be. Raises what `enable` would raise for it."""
        policy = self.policies.of(target.name, self._choose(target, settings, runtime=runtime))
        self._check_issues(target, policy)
        return policy

    def policy_of(self, name: str) -> Policy:
        """What the policy of a target would be if it were enabled without settings."""
        return self.policies.of(name, self.desired.chosen(name))

    def _choose(self, target: Target, settings: Settings, *, runtime: bool) -> Settings:
        section = self.policies.sections.get(target.name)
        if section and settings:
            raise _managed(target.name, section.source)
        self._check_names(settings)
        before = self.desired.chosen(target.name)
        chosen = changed(before, settings)
        if runtime and chosen != before and target.name in self.desired.lasting:
            raise InvalidArgument(
                f'target {quote(target.name)} is enabled for good, and so is its policy: change it with SetPolicy '
                '(sockaccelctl set)'
            )
        return chosen

    async def set_policy(self, target: Target, settings: Settings) -> Enabled | None:
        """Returns what is enabled now, None if it was before. See Engine.set_policy."""
        name = target.name
        if name not in self._slots.enabled and name not in self.refused:
            raise UnknownTarget(f'target {quote(name)} is not enabled, so nothing was changed')
        if section := self.policies.sections.get(name):
            raise _managed(name, section.source)
        runtime = name in self.desired.runtime
        self._check_names(settings)
        chosen = changed(self.desired.chosen(name), settings)
        return await self._want(target, chosen, runtime=runtime, must_exist=False)

    async def _want(self, target: Target, chosen: Settings, *, runtime: bool, must_exist: bool) -> Enabled | None:
        """Enable a target with what is chosen for its policy, or put another policy in force for it."""
        policy, of_file = self.policies.of(target.name, chosen), target.name in self.policies.sections
        self._check_issues(target, policy)
        with contextlib.ExitStack() as undo:
            enabled, before = None, self._slots.enabled.get(target.name)
            if before is None:
                enabled = await self._switch_on(target, policy, must_exist=must_exist)
                undo.callback(self._let_go, enabled)
            elif before.policy != policy:
                undo.callback(self._put_in_force, before, before.policy)
                self._put_in_force(before, policy)
            desired = self.desired.copy()
            desired.enable(target.name, chosen, runtime=runtime, of_file=of_file)
            await self._remember(desired)
            undo.pop_all()
        if self._now_has(before, policy) if before else policy.adopt_connections:
            self._sweeper.adopt()
        self.refused.pop(target.name, None)
        return enabled

    async def disable(self, target: Target, *, runtime: bool) -> int:
        """Returns how many of the target's ends drain. See Engine.disable."""
        enabled = self._slots.enabled.get(target.name)
        if enabled is None and target.name not in self.refused:
            raise UnknownTarget(f'target {quote(target.name)} is not enabled, so nothing was changed')
        section = self.policies.sections.get(target.name)
        if section and not runtime:
            raise ManagedByFile(
                f'target {quote(target.name)} is enabled by {section.source}, so nothing was changed: take the '
                'section away and reload, or disable the target until sockaccel is stopped: sockaccelctl disable '
                f'--runtime {shlex.quote(target.name)}'
            )
        desired = self.desired.copy()
        desired.disable(target.name, runtime=runtime, of_file=section is not None)
        # First: a target that is off now must not come back with the next start.
        await self._remember(desired)
        self.refused.pop(target.name, None)
        if enabled is None:
            return 0
        self._let_go(enabled)
        return self._slots.draining.get(enabled.slot, 0)

    async def reload(self, policies: Policies) -> None:
        """Put in force what the files say now, and try again to enable what was refused.

        Raises InvalidConfiguration if a target cannot have its policy; then nothing was changed.
        """
        desired = self.desired.copy()
        desired.forget_disabled(policies.sections)
        wanted = desired.targets(policies.sections)
        try:
            made = {name: policies.of(name, wanted[name]) for name in self._slots.enabled if name in wanted}
        except InvalidArgument as exc:
            raise InvalidConfiguration(str(exc)) from exc
        self.policies = policies
        for name, enabled in list(self._slots.enabled.items()):
            if name in made:
                self._put_in_force_or_refuse(enabled, made[name])
            else:
                self._let_go(enabled)
                log.info(f'Disabled "{name}": no file has it any more', target=name)
        self.refused = {name: why for name, why in self.refused.items() if name in wanted}
        for name in wanted:
            if name not in made:
                self.refused.pop(name, None)
                await self._enable_again(name)
        try:
            await self._remember(desired)
        except SockaccelError as exc:
            log.warning(f'The next start may find what was before this reload: {exc}, ignoring')

    def join_after_s(self) -> float:
        """How old the first of the new connections can join."""
        return min((each.policy.join_after_s for each in self._slots.enabled.values()), default=0.0)

    def policy(self, name: str) -> Policy | None:
        """Of a target, enabled or refused; None if what was chosen for it means nothing any more."""
        if enabled := self._slots.enabled.get(name):
            return enabled.policy
        try:
            return self.policies.of(name, self.desired.chosen(name))
        except InvalidArgument:
            return None

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

    def _wanted(self) -> dict[str, Settings]:
        """The targets that are to be enabled now, with what was chosen for each."""
        return self.desired.targets(self.policies.sections)

    def _check_names(self, settings: Settings) -> None:
        accepted = frozenset(settings.get('AcceptKernelIssues', '').split())
        for name in sorted(accepted - {finding.name for finding in self._findings}):
            raise KernelIssue(f'there is no kernel issue named {quote(name)}; see "sockaccelctl doctor"')

    def _check_issues(self, target: Target, policy: Policy) -> None:
        left = [
            each for each in self._findings
            if each.severity == 'issue' and each.name not in policy.accepted_issues
        ]  # fmt: skip
        if not left:
            return
        sentences = '. And '.join(finding.sentence for finding in left)
        known = self._programs.sentence(target.name)
        them = 'it' if len(left) == 1 else 'them'
        options = ' '.join(f'--accept {finding.name}' for finding in left)
        how = f'sockaccelctl enable {options} {shlex.quote(target.name)}'
        if section := self.policies.sections.get(target.name):
            how = f'AcceptKernelIssues={" ".join(finding.name for finding in left)} after {section.source}'
        raise KernelIssue(
            f'{quote(target.name)} was not enabled: {sentences}. {known}. If none of its programs does that, '
            f'accept {them}: {how}'
        )

    def _put_in_force(self, enabled: Enabled, policy: Policy) -> None:
        self._kernel.set_target(enabled.slot, enabled.generation, policy)
        self._sweeper.request(0)

    def _put_in_force_or_refuse(self, enabled: Enabled, policy: Policy) -> None:
        """Switch the target off if nobody accepts an issue of the kernel any more."""
        try:
            self._check_issues(enabled.target, policy)
        except KernelIssue as exc:
            self._let_go(enabled)
            self.refused[enabled.target.name] = str(exc)
            log.warning(f'Disabled {quote(enabled.target.name)} until a reload or start enables it: {exc}')
            return
        self._put_in_force(enabled, policy)
        self._now_has(enabled, policy)

    def _now_has(self, enabled: Enabled, policy: Policy) -> bool:
        """Note the policy that is in force. Returns whether it adopts what an earlier one left to TCP."""
        adopts = policy.adopt_connections and policy.lets_in_more_than(enabled.policy)
        if adopts:
            self._sweeper.find_sockets_soon()
        enabled.policy = policy
        return adopts

    async def _enable_again(self, name: str, slot: int = 0) -> None:
        """Enable what is remembered or of a file. slot: one that it has in the kernel, 0 for none."""
        section = self.policies.sections.get(name)
        try:
            target = Target.parse(name)
            policy = self.policies.of(name, self.desired.chosen(name))
            self._check_issues(target, policy)
            enabled = await self._switch_on(target, policy, slot, must_exist=False)
        except SockaccelError as exc:
            self.refused[name] = str(exc)
            whose = f'of {section.source}' if section else 'that is remembered'
            log.warning(f'Ignoring the target {quote(name)} {whose} until a reload or start enables it: {exc}')
            return
        if section:
            where = f'cgroup "{enabled.cgroup.path}"' if enabled.cgroup else f'waiting: {enabled.why}'
            log.info(f'Enabled "{name}" ({where}), as {section.source} says', target=name)

    async def _switch_on(
        self, target: Target, policy: Policy, slot: int = 0, *, must_exist: bool = True
    ) -> Enabled:
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
            enabled = self._in_slot(target, place, slot, policy)
            if newly_attached := self._attach():
                undo.callback(self._kernel.detach)
            # As a whole: a step that failed may have been done in part.
            undo.callback(self._switch_off, enabled)
            self._kernel.set_target(enabled.slot, enabled.generation, policy)
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

    def _in_slot(self, target: Target, place: Place, slot: int, policy: Policy) -> Enabled:
        if slot:
            return self._slots.again(target, place, slot, self.desired.slots[slot], policy)
        slot = self._slots.free()
        return self._slots.new(target, place, slot, self._statistics.of_slot(slot), policy)

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


def _managed(name: str, source: str) -> ManagedByFile:
    return ManagedByFile(
        f'the policy of target {quote(name)} is in {source}, so nothing was changed: change it there and reload'
    )


def _too_deep(cgroup: Cgroup) -> str:
    """Why the BPF programs would not find a target with this cgroup, '' if they would."""
    level = cgroup.path.rstrip('/').count('/')
    if level < MAX_TARGET_LEVELS:
        return ''
    return f'its cgroup is {level} levels below the root, and a target can be at most {MAX_TARGET_LEVELS - 1}'
