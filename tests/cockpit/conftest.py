# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures: for each Debian release a machine with Cockpit and the packages as built there, and a browser."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.cockpit.browser import Browser, Tab
from tests.cockpit.machine import PACKAGES, Machine
from tests.cockpit.person import log_in, speak
from tests.support.harness import ROOT, Surroundings
from tests.system import package, roots

OUTPUT = ROOT / 'build' / 'cockpit'

# What somebody sees who has logged in, in a language of Cockpit's menu: a context manager of (user, language="").
Visit = Callable[..., AbstractContextManager[Tab]]


@pytest.fixture(autouse=True, scope='module')
def _settled() -> Iterator[None]:
    """As for all tests, but once for a module: its tests share machines, whose daemons keep their programs."""
    before = Surroundings.now()
    yield
    if left := before.left():
        before.clear()
        pytest.fail(f'left behind: {left}')


@pytest.fixture(scope='module')
def shared(release: roots.Release, source: Path, _settled: None) -> Iterator[Machine]:
    """The machine of a release, with everything installed."""
    root = roots.root(release, 'cockpit', PACKAGES)
    built = OUTPUT / 'packages' / release.name
    package.build(root, source, built)
    with Machine(root, {'/out': built}) as machine:
        machine.install()
        yield machine


@pytest.fixture
def machine(shared: Machine) -> Machine:
    """The machine as it is after the installation: the daemon runs, and there is no target."""
    shared.reset()
    return shared


@pytest.fixture(scope='module')
def browser(shared: Machine) -> Iterator[Browser]:
    with Browser(shared.in_network()) as started:
        yield started


@pytest.fixture
def visit(machine: Machine, browser: Browser, request: pytest.FixtureRequest) -> Visit:
    """Log in, see the page, and find at the end that nothing went wrong in it."""

    @contextmanager
    def visited(user: str, language: str = '') -> Iterator[Tab]:
        with browser.tab() as tab:
            if language:
                speak(tab, language)
            try:
                log_in(tab, user)
                yield tab
            except BaseException:
                _tell(machine, tab, request.node.name)
                raise
            assert tab.complaints() == []

    return visited


def _tell(machine: Machine, tab: Tab, test: str) -> None:
    """What may explain the failure of a test: a picture, and what page and daemon have said."""
    picture = OUTPUT / 'failed' / f'{test.replace("/", "-")}.png'
    tab.picture(picture)
    print(f'see {picture}; the page complained: {tab.complaints()}')
    print(machine.run('journalctl', '--no-pager', '--lines=30', '--unit=sockaccel.service', check=False).stdout)
