# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the cgroup of a target in the cgroup2 file system."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sockaccel.errors import InvalidTarget, UnsupportedKernel
from sockaccel.target import Kind, Target, quote


@dataclass(frozen=True)
class Cgroup:
    """A cgroup that exists. path: below the mount point, `/` for the root. id: what the kernel calls cgroup id."""

    path: str
    id: int


class Units(Protocol):
    """Who knows where the units of this host live."""

    async def control_group(self, unit: str) -> str | None:
        """The cgroup path of a unit, '' while it does not run, None where nobody knows about units.

        Raises InvalidTarget for a unit that does not exist.
        """


class Cgroups:
    """The part of the cgroup2 tree that sockaccel may act on: `root` and all below it.

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

    async def resolve(self, target: Target) -> Cgroup | None:
        """The target's cgroup, None while it has none. Raises InvalidTarget."""
        match target.kind:
            case Kind.EVERYTHING:
                return self.root_cgroup
            case Kind.PATH:
                path = self._below_mount(target.name, target.name)
                found = self._stat(path)
                if found is None:
                    raise InvalidTarget(f'target {quote(target.name)} does not exist below "{self.mount}"')
            case Kind.UNIT:
                place = await self._units.control_group(target.name)
                if place is None:
                    place = self._search(target.name)
                if not place:
                    return None
                path, found = place, self._stat(place)
        if path != self.root and not path.startswith(self.root.rstrip('/') + '/'):
            raise InvalidTarget(
                f'target {quote(target.name)} is the cgroup "{path}", outside "{self.root}", the cgroup that '
                'sockaccel is confined to (CgroupRoot=)'
            )
        return found

    def _below_mount(self, path: str, named: str) -> str:
        """A path as the kernel counts it, from one that may begin with the mount point."""
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
        """Where there is no systemd to ask: the one cgroup that bears the unit's name."""
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


def cgroup2_mount() -> Path:
    """Where cgroup2 is mounted. Raises UnsupportedKernel."""
    # proc(5): fields up to " - ", then type, source and options.
    for line in Path('/proc/self/mountinfo').read_text().splitlines():
        before, _separator, after = line.partition(' - ')
        if after.startswith('cgroup2 '):
            _id, _parent, _device, root, mount, *_rest = before.split()
            # systemd shows a service its own memory.pressure by a mount of that file.
            if root != '/':
                continue
            return Path(mount.encode().decode('unicode_escape'))
    raise UnsupportedKernel(
        'no cgroup2 file system is mounted, without which sockaccel cannot tell whose connections to accelerate: '
        'mount it, or boot with systemd.unified_cgroup_hierarchy=1'
    )
