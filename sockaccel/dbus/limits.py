# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of something each user may have, and all of them together. uid 0 has room of its own."""

from collections import Counter

import structlog

from sockaccel.errors import LimitExceeded

log = structlog.stdlib.get_logger()

PRIVILEGED = 0
# Users whose refusals were logged are kept in mind up to this number.
_MAXIMUM_TOLD = 1024


class Limit:
    """what: in the plural, as in "uid 1000 has 8 subscriptions". hint: what the one who is refused can do.

    each: for a user; privileged: for uid 0; together: for all users other than uid 0.
    """

    def __init__(self, what: str, hint: str, *, each: int, privileged: int, together: int) -> None:
        self._what, self._hint = what, hint
        self._each, self._privileged, self._together = each, privileged, together
        self._taken: Counter[int] = Counter()
        self._all = 0
        self._told: set[int] = set()

    def of(self, user: int) -> int:
        """How much a user has now."""
        return self._taken[user]

    def is_reached(self, user: int) -> bool:
        """Whether a user can have no more."""
        if user == PRIVILEGED:
            return self._taken[user] >= self._privileged
        return self._taken[user] >= self._each or self._all >= self._together

    def take(self, user: int, amount: int = 1) -> None:
        """Raises LimitExceeded, and then there is nothing to `give_back()`."""
        most = self._privileged if user == PRIVILEGED else self._each
        if self._taken[user] + amount > most:
            self._refuse(user, f'uid {user} has as many {self._what} as a user may have ({most})')
        if user != PRIVILEGED:
            if self._all + amount > self._together:
                self._refuse(user, f'all users have as many {self._what} as they may together ({self._together})')
            self._all += amount
        self._taken[user] += amount

    def give_back(self, user: int, amount: int = 1) -> None:
        if user != PRIVILEGED:
            self._all -= amount
        self._taken[user] -= amount
        if not self._taken[user]:
            del self._taken[user]

    def _refuse(self, user: int, why: str) -> None:
        if user not in self._told and len(self._told) < _MAXIMUM_TOLD:
            self._told.add(user)
            log.warning(
                f'Refused a call of uid {user}, as all others that are beyond this limit: {why}', user=user
            )
        raise LimitExceeded(f'{why}: {self._hint}')
