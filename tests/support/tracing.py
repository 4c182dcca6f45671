# SPDX-License-Identifier: GPL-2.0-or-later
"""`sockaccelctl trace` in the background."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Self

from tests.support import harness
from tests.support.patience import PATIENCE_S


def _heed_interrupts() -> None:
    """A shell has what it runs in the background ignore SIGINT, and that is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Trace:
    """A context manager; within it the trace follows. What it prints is read all the time, so that it never waits.

    lines: what it has printed so far.
    """

    def __init__(self, *options: str) -> None:
        self.lines: list[str] = []
        self._more = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'sockaccel.ctl.cli', 'trace', *options],
            cwd=harness.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=_heed_interrupts,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        assert self._process.stderr
        # It says when it is following.
        told = self._process.stderr.readline()
        if 'Following' not in told:
            self.__exit__()
            raise AssertionError(f'sockaccelctl trace does not follow: {told}')
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream
            stream.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._more:
                self.lines.append(line.rstrip('\n'))
                self._more.notify()

    def wait_until(self, condition: Callable[[list[str]], bool], what: str) -> None:
        """Return when the lines are as wanted. Raises AssertionError with the lines."""
        with self._more:
            assert self._more.wait_for(lambda: condition(self.lines), PATIENCE_S), f'no {what}: {self.lines}'

    def interrupt(self) -> str:
        """End it as Ctrl-C does; returns what it says to stderr. Raises TimeoutExpired."""
        harness.stop(self._process, signal.SIGINT)
        self._reader.join()
        assert self._process.stderr
        return self._process.stderr.read()
