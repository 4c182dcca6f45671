# SPDX-License-Identifier: GPL-2.0-or-later
"""What is wanted, and remembered: which targets are enabled, and which slots of the kernel's maps they have."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from sockaccel.core.policies import Settings


@dataclass(frozen=True)
class Slot:
    """A slot of the kernel's maps. name: of its target. baseline: its counters when the target was enabled."""

    name: str
    generation: int
    baseline: tuple[int, ...]


@dataclass
class Desired:
    """The names of targets, each with what Enable and SetPolicy chose for its policy.

    lasting: enabled until it is disabled. runtime: enabled until the daemon is stopped; None: one that is lasting,
    or of a file, and disabled until then. slots: by number, those in use or draining.
    """

    lasting: dict[str, Settings] = field(default_factory=dict)
    runtime: dict[str, Settings | None] = field(default_factory=dict)
    slots: dict[int, Slot] = field(default_factory=dict)

    def targets(self, of_files: Iterable[str] = ()) -> dict[str, Settings]:
        """What is to be enabled now. of_files: the targets that files enable."""
        nothing: Settings = {}
        both = {**dict.fromkeys(of_files, nothing), **self.lasting, **self.runtime}
        return {name: chosen for name, chosen in both.items() if chosen is not None}

    def chosen(self, name: str) -> Settings:
        """What was chosen for a target, whether it is enabled or not."""
        return self.runtime.get(name) or self.lasting.get(name) or {}

    def copy(self) -> Self:
        return type(self)(dict(self.lasting), dict(self.runtime), dict(self.slots))

    def enable(self, name: str, chosen: Settings, *, runtime: bool, of_file: bool = False) -> None:
        """With runtime, what is lasting or of a file is not made one of the runtime, but is there again."""
        if not runtime:
            self.lasting[name] = chosen
            self.runtime.pop(name, None)
        elif name in self.lasting or of_file:
            self.runtime.pop(name, None)
        else:
            self.runtime[name] = chosen

    def disable(self, name: str, *, runtime: bool, of_file: bool = False) -> None:
        """of_file: whether a file enables it, which can be disabled until the daemon is stopped, not for good."""
        if not runtime:
            self.lasting.pop(name, None)
        self.runtime.pop(name, None)
        if name in self.lasting or of_file:
            self.runtime[name] = None

    def forget_disabled(self, of_files: Iterable[str]) -> None:
        """Forget that targets are disabled which are neither lasting nor of a file any more."""
        kept = {*self.lasting, *of_files}
        self.runtime = {
            name: chosen for name, chosen in self.runtime.items() if chosen is not None or name in kept
        }
