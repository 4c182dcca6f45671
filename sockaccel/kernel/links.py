# SPDX-License-Identifier: GPL-2.0-or-later
"""The links of the programs that lead connections, by their names in the store."""

import os
from collections.abc import Mapping

from sockaccel.core.store import Store
from sockaccel.kernel import libbpf


class Links:
    """held: those of an earlier daemon, which may run the programs of another version."""

    def __init__(self, store: Store, held: Mapping[str, int]) -> None:
        self._store = store
        self._fds = dict(held)
        self._outdated = set(held)

    def names(self, prefix: str = '') -> list[str]:
        return [name for name in self._fds if name.startswith(prefix)]

    def fd(self, name: str) -> int | None:
        return self._fds.get(name)

    def renew(self, name: str, program: int) -> None:
        """Let a link of an earlier daemon run a program of this one; there is no moment without one."""
        if name in self._outdated:
            libbpf.replace_program(self._fds[name], program)
            self._outdated.discard(name)

    def put(self, name: str, fd: int) -> None:
        """Keep a new link; another one of that name ends."""
        self.drop(name)
        self._fds[name] = fd
        self._store.keep(name, fd)

    def drop(self, name: str) -> None:
        """End a link. One that is not there is no error."""
        fd = self._fds.pop(name, None)
        self._outdated.discard(name)
        if fd is not None:
            self._store.drop([name])
            os.close(fd)

    def close(self) -> None:
        """Close all fds. What the store has goes on."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}
