# SPDX-License-Identifier: GPL-2.0-or-later
"""Aborts connections whose reader may miss redirected bytes, by the BPF program of bpf/abort.c.

The program is asked about each TCP socket while the kernel holds that socket's lock. A program that sleeps in a
page fault inside a call of its own keeps its socket's lock as long as it likes. So a process of its own walks, and
the daemon is not kept waiting.
"""

import os
import subprocess
import sys
import threading

import structlog

from sockaccel.core import child
from sockaccel.kernel import libbpf

log = structlog.stdlib.get_logger()


class Aborter:
    """program: an fd of bpf/abort.c's, which stays the caller's; None where the kernel does not take it."""

    def __init__(self, program: int | None) -> None:
        self._program = program if program is None else os.dup(program)
        self._lock = threading.Lock()
        self._wanted = False
        self._thread: threading.Thread | None = None

    def abort(self) -> None:
        """Let a process abort what has to be aborted, one at a time; returns at once."""
        with self._lock:
            if self._program is None:
                return
            self._wanted = True
            if self._thread is None:
                # Nobody waits for it at the end of the daemon: its process may be kept waiting.
                self._thread = threading.Thread(target=self._work, name='abort', daemon=True)
                self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether nothing is going on."""
        with self._lock:
            return self._thread is None

    def close(self) -> None:
        """What was begun goes on; nothing new begins. Again is no error."""
        with self._lock:
            if self._program is not None:
                os.close(self._program)
            self._program = None

    def _work(self) -> None:
        while True:
            with self._lock:
                program = self._program
                if not self._wanted or program is None:
                    self._thread = None
                    return
                self._wanted = False
                try:
                    process = _start(program)
                except OSError as exc:
                    log.error(f'Cannot abort connections whose readers may miss bytes ({exc}), ignoring')
                    continue
            printed, _nothing = process.communicate()
            if process.returncode:
                log.error('Cannot abort connections whose readers may miss bytes, ignoring')
            elif count := len(printed):
                log.warning(f'Aborted connections whose readers may miss bytes, at {count} of their ends')


def _start(program: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        child.command('sockaccel.kernel.aborts', str(program)), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(program,), cwd=child.DIRECTORY,
    )  # fmt: skip


def main() -> int:
    """argv: fd of the program. Prints a byte for each socket that was aborted."""
    for printed in libbpf.iterate(int(sys.argv[1])):
        sys.stdout.buffer.write(printed)
    return 0
