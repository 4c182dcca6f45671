# SPDX-License-Identifier: GPL-2.0-or-later
"""Network namespaces that the daemon can open: its own, and those that have a name."""

import asyncio
import os
import select
from collections.abc import Callable
from pathlib import Path

OWN = Path('/proc/self/ns/net')
# Where ip-netns(8), Podman and Docker name them. To open that of a process needs rights that the daemon gave up.
DIRECTORIES = (Path('/run/netns'), Path('/run/docker/netns'))


class Mounts:
    """Calls `changed` from the event loop when something was mounted or unmounted, as a name comes or goes."""

    def __init__(self, changed: Callable[[], None]) -> None:
        # proc(5): poll() tells of a change by POLLPRI and POLLERR, once; the file is readable at any time. asyncio
        # asks only for that, so an epoll of our own is between.
        self._file = os.open('/proc/self/mountinfo', os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.epoll()
        self._changes.register(self._file, select.EPOLLPRI)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._changes.fileno(), changed)

    def close(self) -> None:
        self._loop.remove_reader(self._changes.fileno())
        self._changes.close()
        os.close(self._file)


def open_all() -> dict[int, int]:
    """An fd of each, by inode number; the caller closes them. What cannot be opened is left out."""
    found: dict[int, int] = {}
    device = OWN.stat().st_dev
    for path in (OWN, *_named()):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        status = os.fstat(fd)
        # "ip netns add" makes an empty file first.
        if status.st_dev != device or status.st_ino in found:
            os.close(fd)
        else:
            found[status.st_ino] = fd
    return found


def _named() -> list[Path]:
    found: list[Path] = []
    for directory in DIRECTORIES:
        try:
            found += sorted(directory.iterdir())
        except OSError:
            continue
    return found
