# SPDX-License-Identifier: GPL-2.0-or-later
"""What is wanted, and remembered: which targets are enabled, and which slots of the kernel's maps they have."""

from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True)
class Slot:
    """A slot of the kernel's maps. name: of its target. baseline: its counters when the target was enabled."""

    name: str
    generation: int
    baseline: tuple[int, ...]


@dataclass
class Desired:
    """The names of targets, each with the kernel issues that were accepted for it.

    lasting: enabled until it is disabled. runtime: enabled until the daemon is stopped; None: a lasting target
    that is disabled until then. slots: by number, those in use or draining.
    """

    lasting: dict[str, frozenset[str]] = field(default_factory=dict)
    runtime: dict[str, frozenset[str] | None] = field(default_factory=dict)
    slots: dict[int, Slot] = field(default_factory=dict)

    def targets(self) -> dict[str, frozenset[str]]:
        """What is to be enabled now."""
        both = {**self.lasting, **self.runtime}
        return {name: accepted for name, accepted in both.items() if accepted is not None}

    def copy(self) -> Self:
        return type(self)(dict(self.lasting), dict(self.runtime), dict(self.slots))

    def enable(self, name: str, accepted: frozenset[str], *, runtime: bool) -> None:
        if not runtime:
            self.lasting[name] = accepted
            self.runtime.pop(name, None)
        elif name not in self.lasting:
            self.runtime[name] = accepted
        else:
            self.runtime.pop(name, None)

    def disable(self, name: str, *, runtime: bool) -> None:
        if not runtime:
            self.lasting.pop(name, None)
        self.runtime.pop(name, None)
        if name in self.lasting:
            self.runtime[name] = None
