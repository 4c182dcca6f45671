# SPDX-License-Identifier: GPL-2.0-or-later
"""What an administrator decides about the connections of targets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """From the configuration, the same for every target.

    accepted_issues: names of findings that do not keep a target from being enabled. blocking_readers: whether
    connections may join whose ends block in recv(). join_after_s: how old a connection must be to join.
    """

    accepted_issues: frozenset[str] = frozenset()
    blocking_readers: bool = False
    join_after_s: float = 0.1
