# SPDX-License-Identifier: GPL-2.0-or-later
"""The maps that say which programs an accelerated socket would hurt (bpf/lib/programs.c)."""

import struct
import time
from collections.abc import Mapping

from sockaccel.core.knowledge import Knowledge
from sockaccel.core.programs import Executable, Seen
from sockaccel.core.text import printable
from sockaccel.kernel import libbpf
from sockaccel.kernel.abi import (
    EXECUTABLE,
    PATH_BYTES,
    PATH_PART,
    PROGRAM,
    PROGRAM_NAME,
    ExecutableRecord,
    ProgramRecord,
)

_U32 = struct.Struct('=I')


class KnownPrograms:
    """Implements sockaccel.core.programs.Maps. fds: by name; what holds them may close and remove them."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        self._fds = fds

    def names(self, wanted: dict[str, Knowledge]) -> None:
        """Let these and no other names of processes be known; the kernel cuts a name after 15 bytes. OSError."""
        packed: dict[bytes, Knowledge] = {}
        for name, knowledge in wanted.items():
            key = PROGRAM_NAME.pack(name.encode()[: PROGRAM_NAME.size - 1])
            packed[key] = packed.get(key, Knowledge(0)) | knowledge
        for key in libbpf.map_keys(self._fds['sa_names'], PROGRAM_NAME.size):
            if key not in packed:
                libbpf.map_delete(self._fds['sa_names'], key)
        for key, knowledge in packed.items():
            libbpf.map_update(self._fds['sa_names'], key, _U32.pack(knowledge))

    def read(self) -> list[Seen]:
        """Every executable that is known; the path of one that no watcher has seen is ''. OSError."""
        found = []
        for key in libbpf.map_keys(self._fds['sa_programs'], EXECUTABLE.size):
            if value := libbpf.map_lookup(self._fds['sa_programs'], key, PROGRAM.size):
                record = ProgramRecord._make(PROGRAM.unpack(value))
                which = ExecutableRecord._make(EXECUTABLE.unpack(key))
                ago_s = (time.clock_gettime_ns(time.CLOCK_MONOTONIC) - record.since_ns) / 1e9
                since = int(time.time() - ago_s)
                executable = Executable(which.device, which.inode)
                found.append(Seen(executable, path_of(record.path), Knowledge(record.knowledge), since))
        return found

    def write(self, executable: Executable, knowledge: Knowledge) -> None:
        """Let an executable be known, or not with no knowledge. OSError, for example where there is no room."""
        key = EXECUTABLE.pack(executable.inode, executable.device, 0)
        if not knowledge:
            libbpf.map_delete(self._fds['sa_programs'], key)
            return
        value = libbpf.map_lookup(self._fds['sa_programs'], key, PROGRAM.size)
        record = ProgramRecord._make(PROGRAM.unpack(value)) if value else ProgramRecord(0, 0, 0, bytes(PATH_BYTES))
        if record.knowledge != knowledge:
            changed = record._replace(knowledge=knowledge)
            libbpf.map_update(self._fds['sa_programs'], key, PROGRAM.pack(*changed))


def path_of(names: bytes) -> str:
    """From the names on the way to a file, the last one first, some empty; '' for none.

    A name that did not fit ends in "…", and so does one that has more directories above it than there is room for
    begin.
    """
    parts = [names[at : at + PATH_PART].split(b'\0', 1)[0] for at in range(0, PATH_BYTES, PATH_PART)]
    shown = [
        printable(part.decode(errors='replace')) + ('…' if len(part) == PATH_PART - 1 else '')
        for part in parts if part
    ]  # fmt: skip
    if not shown:
        return ''
    return ('…/' if parts[-1] else '/') + '/'.join(reversed(shown))
