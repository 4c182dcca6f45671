# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes of this host, as /proc shows them to the one who asks: where they are, and who listens."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sockaccel.core.text import printable

_PROC = Path('/proc')
# include/net/tcp_states.h
_LISTEN = '0A'


@dataclass(frozen=True)
class Process:
    """cgroup: its path in the unified tree, '' where there is none."""

    pid: int
    program: str
    cgroup: str

    @property
    def words(self) -> str:
        return f'process {self.pid} ("{self.program}")'


def process(pid: int) -> Process | None:
    """None if there is no such process, or it may not be seen."""
    try:
        program = (_PROC / str(pid) / 'comm').read_text(errors='replace').rstrip('\n')
        lines = (_PROC / str(pid) / 'cgroup').read_text(errors='replace').splitlines()
    except OSError:
        return None
    # cgroups(7): the unified tree's line has no controllers.
    cgroup = next((line.partition('::')[2] for line in lines if line.startswith('0::')), '')
    return Process(pid, printable(program), printable(cgroup))


def all_named(program: str) -> list[Process]:
    """Those that run a program, by the name that the kernel knows."""
    return [found for pid in _pids() if (found := process(pid)) and found.program == program]


def listening(port: int) -> tuple[bool, list[Process]]:
    """Whether somebody listens on a port in this network namespace, and who, as far as that may be seen."""
    wanted = {f'socket:[{inode}]' for inode in _listeners(port)}
    return bool(wanted), [found for pid in _pids() if wanted and _has_one(pid, wanted) and (found := process(pid))]


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir(_PROC) if name.isdigit())


def _listeners(port: int) -> Iterator[str]:
    """Inodes of listening sockets (proc_pid_net(5))."""
    for table in ('tcp', 'tcp6'):
        with contextlib.suppress(OSError), (_PROC / 'self/net' / table).open() as lines:
            next(lines, None)
            for line in lines:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(':')[2], 16) == port:
                    yield fields[9]


def _has_one(pid: int, sockets: set[str]) -> bool:
    """Whether a process has one of these open. Those of others are shown to root alone."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(_PROC / str(pid) / 'fd'):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path) in sockets:
                    return True
    return False
