# SPDX-License-Identifier: GPL-2.0-or-later
"""Chooses the kernel objects of the daemon: those of an earlier process where they fit, otherwise new ones.

The store keeps each object under a name with a digest: for a map of all that decides how maps look, for a program
of the other sources too. After an upgrade that changed only code, new programs use the old maps, and connections
stay accelerated. After one that changed the layout there are new maps, and the old connections go on by TCP.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import structlog

from sockaccel.core.store import Store
from sockaccel.kernel import libbpf, loader, programs

log = structlog.stdlib.get_logger()

# Before the name of a program that is attached to a cgroup. Its link runs whichever program it is given.
_CGROUP_LINK = 'cgroup_link_'
_CGROUP_LINKS = frozenset(_CGROUP_LINK + name for name in loader.CGROUP_PROGRAMS)
# Before the name of a watcher. Its link cannot run another program, so it goes with the program.
_WATCHER_LINK = 'link_'
_WATCHER_LINKS = frozenset(_WATCHER_LINK + name for name in loader.WATCHERS)
_OF_CODE = frozenset(loader.PROGRAMS) | loader.WATCHERS | _WATCHER_LINKS
_NAME = re.compile(r'([0-9a-f]{16})-(\w+)', re.ASCII)


@dataclass
class Objects:
    """Programs and maps by name, the links of an earlier process, and what the store keeps of them.

    cgroup_links, watcher_links: by the names of their programs, those that there were.
    """

    fds: dict[str, int]
    cgroup_links: dict[str, int]
    watcher_links: dict[str, int]
    _store: Store
    _digests: programs.Digests
    _kept: set[str] = field(default_factory=set)
    _stale: dict[str, int] = field(default_factory=dict)

    @property
    def replaced_watchers(self) -> frozenset[str]:
        """The watchers of an earlier version that are still attached: until `keep`."""
        names = {_object(name) for name in self._stale}
        return frozenset(name.removeprefix(_WATCHER_LINK) for name in names & _WATCHER_LINKS)

    def keep(self) -> None:
        """Let programs and maps outlive the process, and close those programs and links that were replaced."""
        _let_go(self._store, self._stale)
        for name, fd in self.fds.items():
            if self._name(name) not in self._kept:
                self._store.keep(self._name(name), fd)
                self._kept.add(self._name(name))

    def keep_links(self, links: Mapping[str, int]) -> None:
        """Let links to a cgroup outlive the process. links: by the names of their programs."""
        for name, fd in links.items():
            self._store.keep(self._name(_CGROUP_LINK + name), fd)

    def drop_links(self) -> None:
        """Let no link to a cgroup outlive the process."""
        self._store.drop([self._name(name) for name in _CGROUP_LINKS])

    def keep_watcher(self, name: str, link: int) -> None:
        """Let the link of a watcher outlive the process. name: of its program."""
        self._store.keep(self._name(_WATCHER_LINK + name), link)

    def drop_watchers(self, names: Iterable[str]) -> None:
        """Let the links of watchers not outlive the process. names: of their programs."""
        self._store.drop([self._name(_WATCHER_LINK + name) for name in names])

    def drop(self) -> None:
        """Let nothing outlive the process."""
        self.drop_links()
        self._store.drop([self._name(name) for name in self.fds])

    def _name(self, name: str) -> str:
        return f'{self._digests.code if name in _OF_CODE else self._digests.layout}-{name}'


async def obtain(store: Store, maximum_connections: int) -> Objects:
    """Adopt or make every object. Raises what programs.load() raises; the store then still has what it had."""
    digests = programs.digests(maximum_connections)
    held = store.take()
    maps = {name: fd for name, fd in _pick(held, digests.layout, loader.MAPS).items() if _is_map(fd, name)}
    unchanged = _pick(held, digests.code, loader.PROGRAMS)
    if len(maps) == len(loader.MAPS) and len(unchanged) == len(loader.PROGRAMS):
        unchanged |= _pick(held, digests.code, loader.WATCHERS)
        fds = unchanged | maps
    elif len(maps) == len(loader.MAPS):
        fds = await programs.load(maximum_connections, maps) | maps
    else:
        maps = {}
        fds = await programs.load(maximum_connections)
    cgroup_links = _pick(held, digests.layout, _CGROUP_LINKS) if maps else {}
    ours = {f'{digests.layout}-{name}' for name in (*maps, *cgroup_links)} if maps else set()
    links = _pick(held, digests.code, _WATCHER_LINKS) if maps else {}
    ours |= {f'{digests.code}-{name}' for name, fd in unchanged.items() if fds[name] == fd}
    ours |= {f'{digests.code}-{name}' for name in links}
    rest = {name: fd for name, fd in held.items() if name not in ours}
    stale = {name: fd for name, fd in rest.items() if maps and _object(name) in _OF_CODE}
    _empty(store, {name: fd for name, fd in rest.items() if name not in stale})
    watcher_links = {name.removeprefix(_WATCHER_LINK): fd for name, fd in links.items()}
    links = {name.removeprefix(_CGROUP_LINK): fd for name, fd in cgroup_links.items()}
    return Objects(fds, links, watcher_links, store, digests, ours, stale)


def _pick(held: dict[str, int], digest: str, names: Iterable[str]) -> dict[str, int]:
    """Those of the objects that the store has under this digest."""
    return {name: held[f'{digest}-{name}'] for name in names if f'{digest}-{name}' in held}


def _object(name: str) -> str:
    """The name of a map or program without its digest, '' for what sockaccel did not name."""
    match = _NAME.fullmatch(name)
    return match[2] if match else ''


def _is_map(fd: int, name: str) -> bool:
    return libbpf.map_name(fd) == name[: libbpf.NAME_LENGTH]


def _empty(store: Store, held: dict[str, int]) -> None:
    """Close an earlier version's objects. Without a verdict TCP carries its connections until they are closed."""
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
