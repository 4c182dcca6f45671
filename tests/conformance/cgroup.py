# SPDX-License-Identifier: GPL-2.0-or-later
"""Cgroups of the unified hierarchy for the tests to run in."""

import contextlib
import itertools
import os
import re
import select
from collections.abc import Iterator
from pathlib import Path

from tests.support.patience import PATIENCE_S

_numbers = itertools.count(1)


def mount_point() -> Path:
    """Where cgroup2 is mounted: on a hybrid host that is not /sys/fs/cgroup.

    Raises FileNotFoundError where the host has no cgroup2 mount.
    """
    for line in Path('/proc/self/mountinfo').read_text().splitlines():
        mount, _, filesystem = line.partition(' - ')
        if filesystem.split()[0] == 'cgroup2':
            escaped = mount.split()[4]
            return Path(re.sub(r'\\([0-7]{3})', lambda octal: chr(int(octal[1], 8)), escaped))
    raise FileNotFoundError('no cgroup2 mount in /proc/self/mountinfo')


def join(cgroup: Path) -> None:
    """Move this process into the cgroup; sockets that are open already stay with the old one."""
    (cgroup / 'cgroup.procs').write_text(str(os.getpid()))


def remove(cgroup: Path) -> None:
    """Remove the cgroup once its last process is reaped; OSError (EBUSY) if that never comes."""
    try:
        events = os.open(cgroup / 'cgroup.events', os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        poller = select.poll()
        poller.register(events, select.POLLPRI)
        while b'populated 1' in os.pread(events, 4096, 0):
            if not poller.poll(PATIENCE_S * 1000):
                break
    finally:
        os.close(events)
    cgroup.rmdir()


@contextlib.contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """A cgroup of our own, removed at the end."""
    cgroup = mount_point() / f'conformance-{purpose}-{os.getpid()}-{next(_numbers)}'
    cgroup.mkdir()
    try:
        yield cgroup
    finally:
        remove(cgroup)
