# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the cgroups of targets in the cgroup2 file system, and notices when they are made and removed."""

import asyncio
import contextlib
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sockaccel.core.cgroup import Cgroup, Place, cgroup2_mount
from sockaccel.core.target import Kind, Target, quote
from sockaccel.errors import InvalidTarget, LimitExceeded
from sockaccel.systemd.inotify import IN_IGNORED, IN_Q_OVERFLOW, Inotify


class Units(Protocol):
    """Who knows the cgroups of units (sockaccel.systemd.units)."""

    async def follow(self, unit: str, moved: Callable[[], None]) -> str | None:
        """The cgroup path that a unit has, or will have when it runs; '' while that is unknown.

        None where there is no systemd. From then on, until `forget`, `moved` is called when `place()` may give
        another answer. Raises InvalidTarget for a unit that cannot be used.
        """

    async def place(self, unit: str) -> str:
        """The same now, for a unit that is followed. Raises InvalidTarget."""

    async def listeners(self, unit: str) -> frozenset[tuple[str, int]]:
        """Address and port of the TCP sockets that systemd opened for a followed unit. Raises InvalidTarget."""

    def forget(self, unit: str) -> None: ...


@dataclass
class _Followed:
    """path: where the target's cgroup is, or will be, '' if unknown. place: the last that `tell` was called for.

    why: what keeps the unit from being used, '' if nothing does. asking: asks the units where it is now.
    ask_again: the answer to come may be outdated.
    """

    target: Target
    path: str = ''
    place: Place = field(default_factory=lambda: Place(None))
    why: str = ''
    listeners: frozenset[tuple[str, int]] = frozenset()
    asking: asyncio.Task[None] | None = None
    ask_again: bool = False


class Cgroups:
    """The part of the cgroup2 tree that sockaccel may act on: `root` and all below it.

    To follow a target is to watch the directories above its cgroup, so that changes elsewhere in the tree do not
    wake the daemon. `fd` is readable when `consume()` has something to do.

    Raises UnsupportedKernel without a cgroup2 mount, InvalidTarget for a root outside it.
    """

    def __init__(self, units: Units, root: str | None = None) -> None:
        self._units = units
        self.mount = cgroup2_mount()
        self._device = self.mount.stat().st_dev
        self.root = '/' if root is None else self._below_mount(root, root)
        self.root_cgroup = self._stat(self.root)
        if self.root_cgroup is None:
            raise InvalidTarget(f'the cgroup root {quote(self.root)} does not exist below "{self.mount}"')
        self._tell: Callable[[str], None] = lambda _name: None
        self._inotify = Inotify()
        self._followed: dict[str, _Followed] = {}
        self._watches: dict[int, str] = {}

    @property
    def fd(self) -> int:
        return self._inotify.fd

    def close(self) -> None:
        for name in list(self._followed):
            self.forget(name)
        self._inotify.close()

    def when_moved(self, tell: Callable[[str], None]) -> None:
        """Call `tell` with the name of each followed target whose place is another one from now on."""
        self._tell = tell

    def open_root(self) -> int:
        """An fd of the root's directory. OSError."""
        return os.open(self.directory(self.root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def directory(self, path: str) -> Path:
        return self.mount / path.lstrip('/')

    def paths(self) -> dict[int, str]:
        """The path of every cgroup by its id; what is not valid UTF-8 in one is escaped."""
        found = {self.mount.stat().st_ino: '/'}
        pending = [b'/']
        while pending:
            path = pending.pop()
            with contextlib.suppress(OSError), os.scandir(os.fsencode(self.mount) + path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        below = path.rstrip(b'/') + b'/' + entry.name
                        found[entry.inode()] = below.decode(errors='backslashreplace')
                        pending.append(below)
        return found

    async def follow(self, target: Target, *, must_exist: bool = True) -> Place:
        """Where a target is. From now on, until `forget()`, a change of that is told.

        must_exist: whether a cgroup path has to exist now, and systemd has to know a unit. Raises InvalidTarget
        and LimitExceeded; then the target is not followed.
        """
        followed = self._followed[target.name] = _Followed(target)
        try:
            followed.path = await self._find(followed)
            self._confine(followed)
            followed.place = self._look(followed)
            if must_exist:
                self._require(followed)
        except OSError as exc:
            self.forget(target.name)
            raise LimitExceeded(f'{quote(target.name)} was not enabled: {_unwatchable(exc)}') from exc
        except BaseException:
            self.forget(target.name)
            raise
        return followed.place

    def _require(self, followed: _Followed) -> None:
        name, kind = followed.target.name, followed.target.kind
        what = ''
        if kind is Kind.PATH and not followed.place.cgroup:
            what = f'target {quote(name)} does not exist below "{self.mount}"'
        elif kind is Kind.UNIT and not followed.path:
            what = f'systemd does not know unit {quote(name)}'
        if what:
            wait = f'sockaccelctl enable --wait {shlex.quote(name)}'
            raise InvalidTarget(f'{what}: check its name, or let sockaccel wait until it is there: {wait}')

    def place(self, name: str) -> Place:
        """Where a followed target is now."""
        return self._followed[name].place

    def path(self, name: str) -> str:
        """Where the cgroup of a followed target is, or will be; '' while that is unknown."""
        return self._followed[name].path

    def find(self, path: str) -> Cgroup | None:
        """The cgroup that has a path now."""
        return self._stat(path)

    def forget(self, name: str) -> None:
        """Follow a target no longer. A repeated call is no error."""
        followed = self._followed.pop(name, None)
        if not followed:
            return
        if followed.asking:
            followed.asking.cancel()
        if followed.target.kind is Kind.UNIT:
            self._units.forget(name)
        needed = {directory for other in self._followed.values() for directory in self._above(other.path)}
        for watch, directory in list(self._watches.items()):
            if directory not in needed:
                self._inotify.unwatch(watch)
                del self._watches[watch]

    def consume(self) -> None:
        """Look again at the targets that the waiting inotify events concern."""
        concerned: set[str] = set()
        for happening in self._inotify.read():
            if happening.mask & IN_Q_OVERFLOW:
                concerned.update(self._followed)
                continue
            directory = self._watches.get(happening.watch)
            if directory is None:
                continue
            if happening.mask & IN_IGNORED:
                del self._watches[happening.watch]
            changed = f'{directory.rstrip("/")}/{happening.name}'.rstrip('/')
            concerned.update(
                name
                for name, followed in self._followed.items()
                if followed.path == changed or followed.path.startswith(changed + '/')
            )
        for name in concerned:
            self._look_again(self._followed[name])

    def _moved(self, followed: _Followed) -> None:
        """The unit may have another cgroup: ask for it, one question at a time."""
        if followed.asking:
            followed.ask_again = True
        else:
            followed.asking = asyncio.get_running_loop().create_task(self._ask(followed))

    async def _ask(self, followed: _Followed) -> None:
        try:
            while True:
                followed.ask_again = False
                followed.why = ''
                try:
                    path = await self._units.place(followed.target.name)
                    followed.listeners = await self._units.listeners(followed.target.name)
                    # A unit that has ended will have the same cgroup when it starts again.
                    followed.path = path or followed.path
                    self._confine(followed)
                except InvalidTarget as exc:
                    followed.why = str(exc)
                self._look_again(followed)
                if not followed.ask_again:
                    return
        finally:
            followed.asking = None

    async def _find(self, followed: _Followed) -> str:
        target = followed.target
        match target.kind:
            case Kind.EVERYTHING:
                return self.root
            case Kind.PATH:
                return self._below_mount(target.name, target.name)
            case Kind.UNIT:
                place = await self._units.follow(target.name, lambda: self._moved(followed))
                if place is None:
                    return self._search(target.name)
                followed.listeners = await self._units.listeners(target.name)
                return place

    def _confine(self, followed: _Followed) -> None:
        if followed.path and not f'{followed.path}/'.startswith(self.root.rstrip('/') + '/'):
            raise InvalidTarget(
                f'target {quote(followed.target.name)} is the cgroup "{followed.path}", outside "{self.root}", '
                'the cgroup that sockaccel is confined to (CgroupRoot=)'
            )

    def _above(self, path: str) -> list[str]:
        """The directories from the root down to the parent of a path."""
        if not path or path == self.root:
            return []
        below = path[len(self.root.rstrip('/')) :].strip('/').split('/')
        return [
            self.root.rstrip('/') + ''.join(f'/{part}' for part in below[:depth]) or '/'
            for depth in range(len(below))
        ]

    def _look(self, followed: _Followed) -> Place:
        """Where the target is. Each directory is watched before it is read, so that no change is missed."""
        if followed.why:
            return Place(None, followed.why, followed.listeners)
        if not followed.path:
            return Place(None, 'systemd does not know it yet', followed.listeners)
        for directory in self._above(followed.path):
            try:
                self._watches[self._inotify.watch(self.directory(directory))] = directory
            except (FileNotFoundError, NotADirectoryError):
                break
        cgroup = self._stat(followed.path)
        return Place(cgroup, '' if cgroup else 'its cgroup does not exist yet', followed.listeners)

    def _look_again(self, followed: _Followed) -> None:
        try:
            place = self._look(followed)
        except OSError as exc:
            place = Place(None, _unwatchable(exc), followed.listeners)
        if place != followed.place:
            followed.place = place
            self._tell(followed.target.name)

    def _below_mount(self, path: str, named: str) -> str:
        """A path below the mount point, from one that may begin with it. Raises InvalidTarget."""
        mount = str(self.mount)
        if path == mount or path.startswith(mount + '/'):
            return path[len(mount) :] or '/'
        if path.startswith('/sys/'):
            raise InvalidTarget(f'target {quote(named)} is not in the cgroup2 file system, which is at "{mount}"')
        return path

    def _stat(self, path: str) -> Cgroup | None:
        try:
            status = os.stat(self.directory(path), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if status.st_dev != self._device or not os.path.isdir(self.directory(path)):
            return None
        # The inode number of a cgroup's directory is its id (kernfs, fs/kernfs/inode.c).
        return Cgroup(path, status.st_ino)

    def _search(self, unit: str) -> str:
        """Without systemd: the only cgroup that has the unit's name. Raises InvalidTarget."""
        found = [
            '/' + str(Path(directory, unit).relative_to(self.mount))
            for directory, names, _files in os.walk(self.directory(self.root))
            if unit in names
        ]
        if not found:
            raise InvalidTarget(
                f'unit {quote(unit)} is unknown: there is no systemd to ask, and no cgroup of that name below '
                f'"{self.directory(self.root)}"'
            )
        if len(found) > 1:
            raise InvalidTarget(f'unit {quote(unit)} could be any of {", ".join(found)}: name the path')
        return found[0]


def _unwatchable(error: OSError) -> str:
    return (
        f'the directories above its cgroup cannot be watched ({error.strerror}), see fs.inotify.max_user_watches'
    )
