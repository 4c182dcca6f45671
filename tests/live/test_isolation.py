# SPDX-License-Identifier: GPL-2.0-or-later
"""Root starts the installed programs in a directory, and with an environment, that others have written.

tests/static/test_install.py has the same without a kernel, tests/unit/ctl/test_bench.py the processes of `bench`.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import harness
from tests.support.harness import ROOT, Cgroup, Daemon, PrivateBus
from tests.support.poison import Poison


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """The installed programs."""
    prefix = tmp_path / 'prefix'
    subprocess.run(
        ['make', '--silent', '--directory', ROOT, 'install', f'PREFIX={prefix}', f'PYTHONDIR={prefix}/modules',
         f'UNITDIR={prefix}/units', f'SYSCONFDIR={prefix}/etc', f'PYTHON={sys.executable}'],
        check=True,
    )  # fmt: skip
    # Beside the modules, where a program without an installation has them.
    (prefix / 'share/sockaccel/bpf').rename(prefix / 'modules/bpf')
    return prefix


@pytest.fixture
def poison(tmp_path: Path) -> Iterator[Poison]:
    poison = Poison(tmp_path / 'poison')
    yield poison
    assert not poison.taken()


def test_check(prefix: Path, poison: Poison) -> None:
    answer = subprocess.run(
        [prefix / 'sbin/sockaccel', '--check'],
        cwd=poison.directory, env=poison.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert 'backlog: ' in answer.stdout


def test_daemon_and_control(prefix: Path, poison: Poison) -> None:
    changed = {name: value for name, value in poison.environment.items() if os.environ.get(name) != value}
    command = ('env', *(f'{name}={value}' for name, value in changed.items()), f'{prefix}/sbin/sockaccel')
    with (
        Cgroup(f'sockaccel-isolation-{os.getpid()}') as root,
        PrivateBus() as bus,
        Daemon(root.path, command=command, directory=poison.directory) as daemon,
    ):
        daemon.ready()
        answer = subprocess.run(
            [prefix / 'bin/sockaccelctl', 'enable', *(f'--accept={name}' for name in harness.every_issue()),
             root.path],
            cwd=poison.directory, env={**poison.environment, 'DBUS_SYSTEM_BUS_ADDRESS': bus.address},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
