# SPDX-License-Identifier: GPL-2.0-or-later
"""Each test finds the package as it was installed: not enabled, not running, without targets."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installed import system
from tests.support.harness import OUR_NAMES, wait_until

# Only where the packages are at hand can one be exchanged for another.
collect_ignore = [] if 'SOCKACCEL_PACKAGE' in os.environ else ['test_package.py']


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not Path('/run/systemd/system').exists() or not Path('/usr/sbin/sockaccel').exists():
        raise pytest.UsageError(
            'these tests need a machine of their own, with systemd and the package: make test-system'
        )


@pytest.fixture(autouse=True)
def _settled() -> Iterator[None]:
    """Begin and end with the daemon gone, its state too, and nothing of it in the kernel."""
    before = _programs()
    _reset()
    yield
    _reset()
    wait_until(lambda: not _programs() - before, 'the kernel frees what closed sockets held')


def _reset() -> None:
    system.attempt('systemctl', 'disable', '--now', 'sockaccel.service')
    system.attempt('systemctl', 'reset-failed', 'sockaccel.service')
    shutil.rmtree('/var/lib/sockaccel', ignore_errors=True)
    shutil.rmtree(system.DROP_IN.parent, ignore_errors=True)


def _programs() -> set[int]:
    """Our BPF programs; each unit brings others, which are systemd's."""
    listed = json.loads(system.run('bpftool', '--json', 'prog', 'list'))
    return {program['id'] for program in listed if program.get('name', '').startswith(OUR_NAMES)}


@pytest.fixture
def sockaccel() -> None:
    """The daemon, running and enabled, at peace with the kernel's issues."""
    system.accept_issues()
    system.run('systemctl', 'enable', '--now', 'sockaccel.service')
