# SPDX-License-Identifier: GPL-2.0-or-later
"""Two parts of one store: the objects that accelerate, and those that lead connections to proxies.

Each part knows nothing of the other, and drops what it finds and does not know.
"""

from collections.abc import Iterable

from sockaccel.core.store import Store

_LEADING = 'lead-'


class Shelf:
    """A part of a store: what has a prefix. held: what the store has of it."""

    def __init__(self, store: Store, prefix: str, held: dict[str, int]) -> None:
        self._store = store
        self._prefix = prefix
        self._held = held

    @property
    def keeps(self) -> bool:
        return self._store.keeps

    def take(self) -> dict[str, int]:
        held, self._held = self._held, {}
        return held

    def keep(self, name: str, fd: int) -> None:
        self._store.keep(self._prefix + name, fd)

    def drop(self, names: Iterable[str]) -> None:
        self._store.drop([self._prefix + name for name in names])

    def close(self) -> None:
        self._store.close()


def shelves(store: Store) -> tuple[Shelf, Shelf]:
    """The part for acceleration, and that for interception. They close the same store."""
    held = store.take()
    leading = {name: fd for name, fd in held.items() if name.startswith(_LEADING)}
    rest = {name: fd for name, fd in held.items() if name not in leading}
    return (
        Shelf(store, '', rest),
        Shelf(store, _LEADING, {name.removeprefix(_LEADING): fd for name, fd in leading.items()}),
    )
