# SPDX-License-Identifier: GPL-2.0-or-later
"""One process at a time aborts connections, whatever becomes of it."""

import os
import queue
import sys
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from sockaccel.kernel import aborts, libbpf
from sockaccel.kernel.aborts import Aborter
from tests.support.harness import wait_until


class Process:
    """In the place of a child. It ends when a test says what it has printed."""

    def __init__(self) -> None:
        self.printed: queue.Queue[bytes | None] = queue.Queue()
        self.returncode = 0

    def communicate(self) -> tuple[bytes, None]:
        printed = self.printed.get()
        self.returncode = int(printed is None)
        return printed or b'', None


class Children:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[Process] = []
        self.fails = False
        monkeypatch.setattr(aborts, '_start', self._start)

    def _start(self, _program: int) -> Process:
        if self.fails:
            raise OSError(12, 'Cannot allocate memory')
        self.started.append(Process())
        return self.started[-1]


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    return Children(monkeypatch)


@pytest.fixture
def aborter() -> Iterator[Aborter]:
    program = os.eventfd(0)
    made = Aborter(program)
    yield made
    made.close()
    os.close(program)
    # Its thread ends.
    wait_until(lambda: made.idle, 'nothing is going on')


def test_one_at_a_time(children: Children, aborter: Aborter) -> None:
    with capture_logs() as lines:
        aborter.abort()
        wait_until(lambda: len(children.started) == 1, 'a process is started')
        # Asked twice meanwhile, it walks once more: the walk that goes on may have passed the socket.
        aborter.abort()
        aborter.abort()
        assert len(children.started) == 1
        children.started[0].printed.put(b'\1\1')
        wait_until(lambda: len(children.started) == 2, 'another one is started')
        children.started[1].printed.put(b'')
        wait_until(lambda: aborter.idle, 'all is done')
    assert len(children.started) == 2
    (line,) = lines
    assert 'at 2 of their ends' in line['event']


def test_one_that_fails(children: Children, aborter: Aborter) -> None:
    with capture_logs() as lines:
        aborter.abort()
        wait_until(lambda: len(children.started) == 1, 'a process is started')
        children.started[0].printed.put(None)
        wait_until(lambda: aborter.idle, 'all is done')
        children.fails = True
        aborter.abort()
        wait_until(lambda: aborter.idle, 'all is done')
    assert [line['log_level'] for line in lines] == ['error', 'error']
    assert 'Cannot allocate memory' in lines[1]['event']


def test_without_a_program(children: Children) -> None:
    made = Aborter(None)
    made.abort()
    assert made.idle
    made.close()
    assert not children.started


def test_after_the_end(children: Children, aborter: Aborter) -> None:
    aborter.abort()
    wait_until(lambda: len(children.started) == 1, 'a process is started')
    aborter.abort()
    aborter.close()
    children.started[0].printed.put(b'')
    wait_until(lambda: aborter.idle, 'it ends')
    aborter.abort()
    assert len(children.started) == 1


def test_what_the_process_does(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    monkeypatch.setattr(libbpf, 'iterate', lambda program: iter([bytes([program]), b'']))
    monkeypatch.setattr(sys, 'argv', ['', '7'])
    assert aborts.main() == 0
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == b'\7'
