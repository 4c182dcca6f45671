# SPDX-License-Identifier: GPL-2.0-or-later
"""Where an application runs: a cgroup, plain or accelerated, and everything it starts there."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support import harness
from tests.support.harness import Cgroup
from tests.support.patience import LONG_S, PATIENCE_S

PLAIN, ACCELERATED = 'plain', 'accelerated'
WAYS = (PLAIN, ACCELERATED)
# Debian's user for processes that own nothing.
NOBODY = 'nobody'
# net/tcp_states.h, as /proc/net/tcp prints it.
_LISTEN = '0A'


@dataclass
class Results:
    """What all tests of a run found out: application -> way -> outcome, and the share that was redirected."""

    outcomes: dict[str, dict[str, str]] = field(default_factory=dict)
    shares: dict[str, str] = field(default_factory=dict)
    compared: dict[str, object] = field(default_factory=dict)

    def table(self) -> list[str]:
        rows = [['application', *WAYS, 'redirected']]
        rows += [
            [name, *(ways.get(way, 'not run') for way in WAYS), self.shares.get(name, '-')]
            for name, ways in self.outcomes.items()
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return [' | '.join(f'{cell:{width}}' for cell, width in zip(row, widths, strict=True)) for row in rows]


class Place:
    """One cgroup for all processes of one test, and the daemon's counters since it was made.

    Whatever still runs at the end is ended, by its pid.
    """

    def __init__(self, way: str, cgroup: Cgroup, results: Results) -> None:
        self.way = way
        self.cgroup = cgroup
        self._results = results
        self._stack = contextlib.ExitStack()
        self._before = dict(harness.call('Stats'))

    def close(self) -> None:
        self._stack.close()

    def directory(self, owner: str | None = None) -> Path:
        """A new directory that everybody may enter and its owner may write to; gone at the end."""
        made = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix='sockaccel-app-')))
        made.chmod(0o755)
        if owner:
            entry = pwd.getpwnam(owner)
            os.chown(made, entry.pw_uid, entry.pw_gid)
        return made

    def start(
        self,
        *command: str | Path,
        user: str | None = None,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.DEVNULL,
        stderr: int | IO[Any] = subprocess.DEVNULL,
        ended_by: int = signal.SIGTERM,
    ) -> subprocess.Popen[bytes]:
        """Start a program in the cgroup, which ends with the place at the latest."""
        if not shutil.which(command[0]) and not Path(cwd or '/', command[0]).exists():
            pytest.fail(f'{command[0]} is missing: run tools/setup apps')
        process = subprocess.Popen(
            _as(user, command),
            cwd=cwd or '/',
            env={**os.environ, 'LC_ALL': 'C.UTF-8', **(environment or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            preexec_fn=self.cgroup.enter,
        )
        self._stack.callback(_end, process, ended_by)
        return process

    def serve(self, port: int, *command: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start a server and wait until it listens; fails with what it printed if it ends instead."""
        log = self.directory() / 'log'
        with log.open('wb') as file:
            process = self.start(*command, **{'stdout': file, 'stderr': file, **options})

        def listens() -> bool:
            if process.poll() is not None:
                pytest.fail(f'{command[0]} ended with {process.returncode}: {log.read_text(errors="replace")}')
            return port in listening()

        harness.wait_until(listens, f'{command[0]} listens on port {port}')
        return process

    def run(self, *command: str | Path, statuses: tuple[int, ...] = (0,), **options: Any) -> str:
        """Run a program in the cgroup to its end; returns what it printed, fails if it hangs."""
        process = self.start(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        try:
            printed, _nothing = process.communicate(timeout=LONG_S)
        except subprocess.TimeoutExpired:
            # What it has started may hold the other end of the pipe, so it all ends.
            self._end_all()
            printed, _nothing = process.communicate()
            pytest.fail(
                f'{self.way}: hangs: {_line(command)}\n'
                f'{printed.decode(errors="replace")[-4000:]}\n{self.explain()}'
            )
        text = printed.decode(errors='replace')
        if process.returncode not in statuses:
            pytest.fail(f'{self.way}: {_line(command)} ended with {process.returncode}:\n{text[-8000:]}')
        return text

    def _end_all(self) -> None:
        def ended() -> bool:
            pids = (self.cgroup.directory / 'cgroup.procs').read_text().split()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            return not pids

        harness.wait_until(ended, 'all processes of the application end')

    def counted(self) -> dict[str, int]:
        """The daemon's counters since this place was made."""
        now = dict(harness.call('Stats'))
        return {name: now[name] - self._before[name] for name in now}

    def explain(self) -> str:
        """What was counted, for the message of a failure."""
        return ', '.join(f'{name} {value}' for name, value in self.counted().items() if value)

    def same(
        self, application: str, outcome: str, found: object, *, redirected: bool = True, label: str = ''
    ) -> None:
        """Note an outcome for the table; what was found must be the same either way, and accelerated for real.

        redirected: whether the accelerated way must have redirected anything, or nothing.
        label: sets this accelerated run apart from another one of the same application in the table.
        """
        self.note(application + label, outcome)
        outcomes = self._results.outcomes
        if label and PLAIN in outcomes.get(application, {}):
            outcomes[application + label][PLAIN] = outcomes[application][PLAIN]
        counted = self.counted()
        print(f'{application}{label}: {self.explain()}')
        if self.way == ACCELERATED and redirected:
            assert counted['redirected_bytes'] > 0, f'nothing was redirected: {self.explain()}'
        else:
            assert counted['redirected_bytes'] == 0, f'something was redirected: {self.explain()}'
        if self.way == PLAIN:
            self._results.compared[application] = found
        elif application in self._results.compared:
            plain = self._results.compared[application]
            assert found == plain, f'{application} does not do the same as plain: {self.explain()}'

    def note(self, application: str, outcome: str) -> None:
        """Note an outcome for the table."""
        self._results.outcomes.setdefault(application, {})[self.way] = outcome
        if self.way == ACCELERATED:
            counted = self.counted()
            total = counted['redirected_bytes'] + counted['tcp_bytes']
            self._results.shares[application] = f'{100 * self.share():.1f} % of {total / 1e6:.1f} MB'

    def share(self) -> float:
        """What of the bytes of connections that joined was redirected, 0 to 1."""
        counted = self.counted()
        total = counted['redirected_bytes'] + counted['tcp_bytes']
        return counted['redirected_bytes'] / total if total else 0


def _line(command: tuple[str | Path, ...]) -> str:
    return ' '.join(str(word) for word in command)


def _as(user: str | None, command: tuple[str | Path, ...]) -> list[str]:
    words = [str(word) for word in command]
    if not user:
        return words
    entry = pwd.getpwnam(user)
    return ['setpriv', f'--reuid={entry.pw_uid}', f'--regid={entry.pw_gid}', '--init-groups', *words]


def _end(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        pytest.fail(f'does not end: {process.args!r}')
    finally:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@contextlib.contextmanager
def opened(way: str, parent: Cgroup, results: Results) -> Iterator[Place]:
    with Cgroup(f'sockaccel-app-{os.getpid()}', parent) as cgroup:
        made = Place(way, cgroup, results)
        try:
            yield made
        finally:
            made.close()


def listening() -> set[int]:
    """The ports that somebody listens on; nobody is bothered by a connection for that."""
    tables = [Path('/proc/net', name).read_text().splitlines()[1:] for name in ('tcp', 'tcp6')]
    rows = [line.split() for table in tables for line in table]
    return {int(row[1].rpartition(':')[2], 16) for row in rows if row[3] == _LISTEN}


def free_port(suits: Callable[[int], bool] = lambda _port: True) -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    while True:
        with socket.socket() as end:
            end.bind(('127.0.0.1', 0))
            port = int(end.getsockname()[1])
        if suits(port):
            return port
