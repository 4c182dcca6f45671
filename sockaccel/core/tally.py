# SPDX-License-Identifier: GPL-2.0-or-later
"""Which connections have sent most, found without putting any of them together.

To add up what the ends of a connection have sent takes a third of the time that it takes to put them together.
"""

import heapq
import itertools
from collections.abc import Set

from sockaccel.core.ends import Layout


class Tally:
    """What both ends of each connection have sent, by the connection's number (see `Layout.numbers`).

    An end that the walk shows again (see `Kernel.parts`) counts again: it may then stand higher than it should.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sent: dict[int, int] = {}

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._sent)

    def add(self, part: bytes) -> None:
        """Count the ends of a part of a walk."""
        sent = self._sent
        for number, more in zip(self._layout.numbers(part), self._layout.sent(part), strict=True):
            sent[number] = sent.get(number, 0) + more

    def busiest(self, limit: int) -> set[int]:
        """The numbers of up to so many connections."""
        return set(heapq.nlargest(limit, self._sent, key=self._sent.__getitem__))


def of_connections(part: bytes, layout: Layout, wanted: Set[int]) -> bytes:
    """The ends of a part that are of certain connections. wanted: their numbers."""
    chosen = map(wanted.__contains__, layout.numbers(part))
    return b''.join(end for (end,) in itertools.compress(layout.rows(part), chosen))
