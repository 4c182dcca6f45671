# SPDX-License-Identifier: GPL-2.0-or-later
"""What holds for all tests: nothing is skipped in CI, and nothing is left behind."""

import asyncio
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import harness, patience

# Of these a session has one each, whatever it runs; of those of led_fixtures each file that asks for them.
pytest_plugins = ['tests.support.fixtures', 'tests.support.led_fixtures', 'tests.system.fixtures']

# Tests that need neither root nor a kernel of ours.
_LIGHT = [Path(__file__).parent / room for room in ('unit', 'static')]
_skipped_in_ci: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In CI nothing may be skipped, but for what the kernel cannot do; then the reason says "this kernel"."""
    if report.skipped and os.environ.get('CI') == 'true' and 'this kernel' not in str(report.longrepr):
        _skipped_in_ci.append(f'{report.nodeid}: {report.longrepr}')


def pytest_sessionfinish(session: pytest.Session) -> None:
    for line in _skipped_in_ci:
        print(f'\nFAILED because it was skipped in CI: {line}')
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_runtest_setup() -> None:
    """Let the limit of a test strike again where its context managers hang too; pytest-timeout's strikes once."""
    left, _again = signal.getitimer(signal.ITIMER_REAL)
    if left:
        signal.setitimer(signal.ITIMER_REAL, left, patience.STRIKE_AGAIN_S)


@pytest.fixture(autouse=True)
def _settled(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves something behind.

    A process, a task, a file descriptor; with a kernel a process, a cgroup, a program, map, link or pin.
    """
    if any(request.path.is_relative_to(room) for room in _LIGHT):
        yield from _leaves_nothing_in_this_process(request)
        return
    before = harness.Surroundings.now()
    yield
    if left := before.left():
        before.clear()
        pytest.fail(f'left behind: {left}')


def _leaves_nothing_in_this_process(request: pytest.FixtureRequest) -> Iterator[None]:
    tasks: list[str] = []
    runners: Any = asyncio.runners
    cancel = runners._cancel_all_tasks

    def note(loop: asyncio.AbstractEventLoop) -> None:
        tasks.extend(str(task) for task in asyncio.all_tasks(loop))
        cancel(loop)

    # What asyncio.run() does with the tasks that are left at its end, without a word.
    request.getfixturevalue('monkeypatch').setattr(runners, '_cancel_all_tasks', note)
    before, children = _descriptors(), harness.children()
    yield
    if _descriptors() != before:
        gc.collect()
    left = {
        'descriptors': _descriptors() - before,
        'processes': harness.children() - children,
        'tasks': tasks,
    }
    if any(left.values()):
        pytest.fail('left behind: ' + ', '.join(f'{kind} {each}' for kind, each in left.items() if each))


def _descriptors() -> set[tuple[str, str]]:
    """The number of each open file, and what it is."""
    found = set()
    for path in Path('/proc/self/fd').iterdir():
        try:
            found.add((path.name, os.readlink(path)))
        except FileNotFoundError:
            # That of the directory itself.
            continue
    return found
