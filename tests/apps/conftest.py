# SPDX-License-Identifier: GPL-2.0-or-later
"""A place for each test, once per way, and the table at the end of the run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from tests.apps.place import ACCELERATED, WAYS, Place, Results, opened
from tests.support.harness import Cgroup, Daemon
from tests.support.patience import LONG_S

HERE = Path(__file__).resolve().parent
_results = Results()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole test suites of other projects take longer than our tests may."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(2 * LONG_S))


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """These want packages and minutes of their own, so they run only when somebody asks for this directory."""
    asked = [Path(config.invocation_params.dir, argument.partition('::')[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(HERE) for path in asked) else True


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    if not _results.outcomes:
        return
    lines = _results.table()
    terminalreporter.section('applications')
    for line in lines:
        terminalreporter.write_line(line)
    if path := os.environ.get('SOCKACCEL_APPS_TABLE'):
        Path(path).write_text(''.join(f'{line}\n' for line in lines))


@pytest.fixture(scope='session')
def results() -> Results:
    return _results


@pytest.fixture(scope='session')
def sources(pytestconfig: pytest.Config) -> Path:
    """Where source packages stay from one run to the next."""
    cache = pytestconfig.cache
    assert cache
    return cache.mkdir('sources')


@pytest.fixture
def nothing_listed(daemon: Daemon) -> Iterator[None]:
    """No program is kept out by its name: for those of the shipped list, which are to be accelerated here."""
    shipped = daemon.programs.read_text()
    daemon.list_programs('[Programs]\n')
    yield
    daemon.list_programs(shipped)


@pytest.fixture(params=WAYS)
def somewhere(
    request: pytest.FixtureRequest, results: Results, target: Cgroup, bystander: Cgroup
) -> Iterator[Place]:
    """Where the application of a test runs: once plain, then once accelerated."""
    with opened(request.param, target if request.param == ACCELERATED else bystander, results) as made:
        yield made
