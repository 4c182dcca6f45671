# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernel objects the daemon works with: those of an earlier process where they fit, new ones where not.

What is kept has a digest in its name. That of a map is over all that its layout depends on, that of a program
over the sources too. So an upgrade that changes nothing but code gets new programs for the old maps, and the
connections in these go on; one that changes the layout gets new maps, and the old connections go by TCP.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from sockaccel.core.store import Store
from sockaccel.kernel import libbpf, loader, programs

log = structlog.stdlib.get_logger()

_LINK = 'link'
_NAME = re.compile(r'([0-9a-f]{16})-(\w+)', re.ASCII)


@dataclass
class Objects:
    """Programs and maps by name, and the link if there was one; the store keeps them under names with digests."""

    fds: dict[str, int]
    link: int | None
    _store: Store
    _digests: programs.Digests
    _kept: set[str] = field(default_factory=set)
    _stale: dict[str, int] = field(default_factory=dict)

    def keep(self) -> None:
        """Let all outlive the process, and let go of the programs that were replaced."""
        _let_go(self._store, self._stale)
        for name, fd in self.fds.items():
            if self._name(name) not in self._kept:
                self._store.keep(self._name(name), fd)
                self._kept.add(self._name(name))

    def keep_link(self, fd: int) -> None:
        self._store.keep(self._name(_LINK), fd)

    def drop_link(self) -> None:
        self._store.drop([self._name(_LINK)])

    def drop(self) -> None:
        """Nothing shall outlive the process."""
        self.drop_link()
        self._store.drop([self._name(name) for name in self.fds])

    def _name(self, name: str) -> str:
        return f'{self._digests.code if name in loader.PROGRAMS else self._digests.layout}-{name}'


async def obtain(store: Store, maximum_connections: int) -> Objects:
    """Raises what sockaccel.kernel.programs.load() raises; then what was kept still is."""
    digests = programs.digests(maximum_connections)
    held = store.take()
    link = _pick(held, digests.layout, [_LINK]).get(_LINK)
    maps = {name: fd for name, fd in _pick(held, digests.layout, loader.MAPS).items() if _is_map(fd, name)}
    unchanged = _pick(held, digests.code, loader.PROGRAMS)
    if len(maps) == len(loader.MAPS) and len(unchanged) == len(loader.PROGRAMS):
        fds = unchanged | maps
    elif len(maps) == len(loader.MAPS):
        fds = await programs.load(maximum_connections, maps) | maps
    else:
        maps = {}
        fds = await programs.load(maximum_connections)
    ours = {f'{digests.layout}-{name}' for name in (*maps, _LINK)} if maps else set()
    ours |= {f'{digests.code}-{name}' for name, fd in unchanged.items() if fds[name] == fd}
    rest = {name: fd for name, fd in held.items() if name not in ours}
    stale = {name: fd for name, fd in rest.items() if maps and _object(name) in loader.PROGRAMS}
    _empty(store, {name: fd for name, fd in rest.items() if name not in stale})
    return Objects(fds, link if maps else None, store, digests, ours, stale)


def _pick(held: dict[str, int], digest: str, names: Iterable[str]) -> dict[str, int]:
    return {name: held[f'{digest}-{name}'] for name in names if f'{digest}-{name}' in held}


def _object(name: str) -> str:
    match = _NAME.fullmatch(name)
    return match[2] if match else ''


def _is_map(fd: int, name: str) -> bool:
    return libbpf.map_name(fd) == name[: libbpf.NAME_LENGTH]


def _empty(store: Store, held: dict[str, int]) -> None:
    """Let go of an earlier version. Without a verdict its connections go by TCP until they are closed."""
    verdicts = [fd for name, fd in held.items() if _object(name) == 'sa_verdict' and _is_map(fd, 'sa_verdict')]
    for fd in verdicts:
        libbpf.map_delete(fd, bytes(4))
    if verdicts:
        log.info('Connections of an earlier version of sockaccel go on by TCP')
    _let_go(store, held)


def _let_go(store: Store, held: dict[str, int]) -> None:
    store.drop(held)
    for fd in held.values():
        os.close(fd)
    held.clear()
