# SPDX-License-Identifier: GPL-2.0-or-later
"""The counters by name: of all targets, of one, since they were reset."""

from sockaccel.core.connection import Counter
from sockaccel.core.limits import MAX_TARGETS
from sockaccel.core.protocols import Kernel
from sockaccel.core.slots import Enabled, Slots
from sockaccel.core.target import quote
from sockaccel.errors import UnknownTarget

_PREFIX = {'total': '', 'connection': 'connection_reason_', 'message': 'message_reason_'}


class Statistics:
    """The kernel's counters only grow. What counts from zero is a difference to what they stood at before.

    width: how many counters a slot has.
    """

    def __init__(self, kernel: Kernel, counters: list[Counter], slots: Slots) -> None:
        self._kernel = kernel
        self._counters = counters
        self.width = len(counters)
        self._slots = slots
        self._missed = next(index for index, counter in enumerate(counters) if counter.name == 'missed')
        # By slot, what its counters stood at when they were reset.
        self._at_reset: dict[int, list[int]] = {}

    def total(self) -> dict[str, int]:
        """Every counter since the BPF programs were loaded, summed over all slots."""
        return self._named(_sums(self._kernel.counters()))

    def of_target(self, name: str) -> dict[str, int]:
        """The counters of an enabled target since it was enabled. Raises UnknownTarget."""
        enabled = self._enabled(name)
        return self._named(_difference(self._kernel.counters()[enabled.slot], enabled.baseline))

    def since_reset(self, name: str) -> dict[str, int]:
        """As `of_target` or, for '', `total`, but since `reset`. Raises UnknownTarget."""
        table, slots = self._kernel.counters(), range(MAX_TARGETS)
        before: dict[int, list[int]] = dict(self._at_reset)
        if name:
            enabled = self._enabled(name)
            slots = range(enabled.slot, enabled.slot + 1)
            at_reset = before.get(enabled.slot, self._zeros())
            # The reset may have been before the target was enabled.
            before[enabled.slot] = [max(pair) for pair in zip(at_reset, enabled.baseline, strict=True)]
        return self._named(_sums([_difference(table[slot], before.get(slot, self._zeros())) for slot in slots]))

    def reset(self, name: str) -> None:
        """Let `since_reset` begin at zero, for an enabled target or, for '', for all. Raises UnknownTarget."""
        table = self._kernel.counters()
        slots = [self._enabled(name).slot] if name else range(MAX_TARGETS)
        self._at_reset |= {slot: table[slot] for slot in slots}

    def of_slot(self, slot: int) -> tuple[int, ...]:
        """What the counters of a slot stand at now."""
        return tuple(self._kernel.counters()[slot])

    def missed(self) -> list[int]:
        """How many connections were missed, by slot."""
        return [row[self._missed] for row in self._kernel.counters()]

    def reason(self, index: int) -> Counter | None:
        """What an event's reason means, None for none."""
        return self._counters[index] if 0 < index < len(self._counters) else None

    def _enabled(self, name: str) -> Enabled:
        enabled = self._slots.enabled.get(name)
        if enabled is None:
            raise UnknownTarget(f'target {quote(name)} is not enabled')
        return enabled

    def _zeros(self) -> list[int]:
        return [0] * self.width

    def _named(self, values: list[int]) -> dict[str, int]:
        return {
            _PREFIX[counter.kind] + counter.name: value
            for counter, value in zip(self._counters, values, strict=True)
        }


def _sums(table: list[list[int]]) -> list[int]:
    return [sum(column) for column in zip(*table, strict=True)]


def _difference(now: list[int], before: list[int] | tuple[int, ...]) -> list[int]:
    return [value - then for value, then in zip(now, before, strict=True)]
