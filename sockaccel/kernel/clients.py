# SPDX-License-Identifier: GPL-2.0-or-later
"""When to look for clients that no program saw connect, because their addresses are translated on the way."""

import time

# Walks over all open files that found nobody are followed by pauses, each twice as long as the last.
FIRST_PAUSE_NS, LONGEST_PAUSE_NS = 1_000_000_000, 64_000_000_000


class Clients:
    """Of accepting ends whose target does not have the client. Most have none that a walk would find."""

    def __init__(self) -> None:
        self._pause_ns = 0
        self._not_before_ns = 0

    def due_ns(self, unseen: int) -> int:
        """When to look, on CLOCK_MONOTONIC; 0 for never. unseen: how many accepting ends wait."""
        return self._not_before_ns if unseen and not self.are_due(unseen) else 0

    def are_due(self, unseen: int) -> bool:
        """Whether to look now."""
        return unseen > 0 and time.monotonic_ns() >= self._not_before_ns

    def were_looked_for(self, found: int) -> None:
        """A walk over all open files has looked for them. found: how many it has met."""
        self._pause_ns = 0 if found else min(max(FIRST_PAUSE_NS, 2 * self._pause_ns), LONGEST_PAUSE_NS)
        self._not_before_ns = time.monotonic_ns() + self._pause_ns
