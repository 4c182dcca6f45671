# SPDX-License-Identifier: GPL-2.0-or-later
"""Which target has which slot of the kernel's maps."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sockaccel.core.cgroup import Cgroup, Place
from sockaccel.core.connection import Event
from sockaccel.core.desired import Slot
from sockaccel.core.limits import MAX_TARGETS
from sockaccel.core.policy import Policy
from sockaccel.core.target import Target
from sockaccel.errors import LimitExceeded


@dataclass
class Enabled:
    """An enabled target and its slot.

    baseline: the slot's counters when the target was enabled. policy: the one in force. why: what the target waits
    for, '' if it has a cgroup. listeners: address and port of those that serve it.
    """

    target: Target
    slot: int
    generation: int
    baseline: tuple[int, ...]
    policy: Policy
    cgroup: Cgroup | None = None
    why: str = ''
    listeners: frozenset[tuple[str, int]] = frozenset()


class Slots:
    """enabled: the enabled targets by name. draining: slots without a target, and how many of their ends drain.

    Slot 0 belongs to no target. A slot keeps the name of its last target until another one takes it, because
    events of that target may still come.
    """

    def __init__(self) -> None:
        self.enabled: dict[str, Enabled] = {}
        self.draining: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._generation = 0

    def take_over(
        self, remembered: dict[int, Slot], held: list[tuple[int, bool]], counters: int
    ) -> dict[str, int]:
        """Begin where an earlier daemon ended; returns the slots that targets can have again, by target name.

        remembered: what that daemon wrote. held: see Kernel.target_slots. counters: how many there are in a slot.
        """
        self._generation = max(generation for generation, _on in held)
        self._names = {number: slot.name for number, slot in remembered.items()}
        return {
            slot.name: number
            for number, slot in remembered.items()
            if 0 < number < len(held)
            and held[number] == (slot.generation, True)
            and len(slot.baseline) == counters
        }

    def name(self, slot: int) -> str:
        """The target that has a slot, or had it last; '' for none."""
        return self._names.get(slot, '')

    def in_use(self) -> set[int]:
        return {enabled.slot for enabled in self.enabled.values()}

    def free(self) -> int:
        """A slot that no target has and in which nothing drains. Raises LimitExceeded."""
        taken = self.in_use() | set(self.draining)
        # Those without a name first, so that late events find their target's name as long as possible.
        for slot in sorted(range(1, MAX_TARGETS), key=lambda slot: (slot in self._names, slot)):
            if slot not in taken:
                return slot
        raise LimitExceeded(
            f'{MAX_TARGETS - 1} targets are enabled or draining, which is the limit: disable one first'
        )

    def new(self, target: Target, place: Place, slot: int, baseline: tuple[int, ...], policy: Policy) -> Enabled:
        """What a target is in a free slot. The generation tells it from the slot's earlier targets."""
        self._generation += 1
        return Enabled(target, slot, self._generation, baseline, policy, place.cgroup, place.why, place.listeners)

    def again(self, target: Target, place: Place, slot: int, was: Slot, policy: Policy) -> Enabled:
        """What a target is in the slot that it has in the kernel already."""
        return Enabled(
            target, slot, was.generation, was.baseline, policy, place.cgroup, place.why, place.listeners
        )

    def set_name(self, enabled: Enabled) -> None:
        self._names[enabled.slot] = enabled.target.name

    def owner_of(self, cgroup: Cgroup | None, but: Enabled | None = None) -> Enabled | None:
        """The enabled target that has a cgroup. but: one that is not looked at."""
        for other in self.enabled.values():
            if other is not but and cgroup and other.cgroup and other.cgroup.id == cgroup.id:
                return other
        return None

    def set_draining(self, ends: Iterable[Event]) -> None:
        """ends: all that a sweep found draining. Ends of enabled targets leave for other reasons: not counted."""
        in_use = self.in_use()
        self.draining = dict(Counter(end.slot for end in ends if end.slot not in in_use))

    def to_remember(self) -> dict[int, Slot]:
        """For the next daemon. Of a draining slot it needs the name alone."""
        draining = {number: Slot(self.name(number), 0, ()) for number in self.draining}
        return draining | {
            enabled.slot: Slot(enabled.target.name, enabled.generation, enabled.baseline)
            for enabled in self.enabled.values()
        }
