# SPDX-License-Identifier: GPL-2.0-or-later
"""The package comes, is replaced and goes, under load. $SOCKACCEL_PACKAGE is its file."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installed import system
from tests.installed.system import attempt, main_pid, redirects, run, show, targets
from tests.support.harness import Surroundings

PACKAGE = os.environ['SOCKACCEL_PACKAGE']
STATE = Path('/var/lib/sockaccel')
# What apt and dpkg note down for themselves, and what other packages do meanwhile.
NOT_OURS = ('/var/lib/dpkg/', '/var/lib/apt/', '/var/lib/systemd/timers', '/var/lib/systemd/deb-systemd')


def apt(*arguments: str) -> str:
    return run('apt-get', '--quiet', '--yes', '--allow-downgrades', *arguments)


@pytest.fixture(autouse=True)
def _installed_again(_settled: None) -> Iterator[None]:
    yield
    apt('install', PACKAGE)
    # A unit that was removed while it was enabled is enabled again.
    attempt('systemctl', 'disable', '--now', 'sockaccel.service')


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """The package as an older version, whose BPF programs are others too."""
    tree = tmp_path / 'tree'
    run('dpkg-deb', '--raw-extract', PACKAGE, str(tree))
    control = tree / 'DEBIAN' / 'control'
    lines = control.read_text().splitlines()
    control.write_text(
        '\n'.join('Version: 0.0.1' if line.startswith('Version:') else line for line in lines) + '\n'
    )
    with (tree / 'usr/share/sockaccel/bpf/verdict.c').open('a') as source:
        source.write('// The previous version.\n')
    package = tmp_path / 'previous.deb'
    run('dpkg-deb', '--build', str(tree), str(package))
    # apt reads it as a user of its own.
    tmp_path.chmod(0o755)
    return package


def test_upgrade_under_load(previous: Path) -> None:
    apt('install', str(previous))
    system.accept_issues()
    run('systemctl', 'enable', '--now', 'sockaccel.service')
    with system.echo() as target:
        run('sockaccelctl', 'enable', target)
        with system.load():
            redirects()
            before = main_pid()
            apt('install', PACKAGE)
            assert main_pid() not in (0, before)
            assert targets() == {target: 'active'}
            redirects()


def test_upgrade_starts_nothing_that_was_not_running(previous: Path) -> None:
    apt('install', str(previous))
    apt('install', PACKAGE)
    assert show('sockaccel.service', 'ActiveState') == 'inactive'


def test_removal_under_load_keeps_the_targets() -> None:
    system.accept_issues()
    run('systemctl', 'enable', '--now', 'sockaccel.service')
    with system.echo() as target:
        run('sockaccelctl', 'enable', target)
        with system.load():
            redirects()
            apt('remove', 'sockaccel')
            assert show('sockaccel.service', 'ActiveState') in ('inactive', 'failed')
            assert STATE.exists()
        apt('install', PACKAGE)
        run('systemctl', 'restart', 'sockaccel.service')
        assert targets() == {target: 'active'}


def test_purge_leaves_nothing() -> None:
    """Neither files nor accounts, and nothing in the kernel, though connections are led and redirected."""
    apt('purge', 'sockaccel')
    before, kernel = surroundings(), Surroundings.now()
    apt('install', PACKAGE)
    system.accept_issues()
    run('systemctl', 'enable', '--now', 'sockaccel.service')
    proxying = f'[Service]\nType=notify\n{system.python("proxy", "15001 15006")}'
    with (
        system.echo() as target,
        system.echo('sa-led.service', 7713) as led,
        system.service('sa-proxy.service', proxying) as proxy,
    ):
        run('systemctl', 'start', proxy)
        run('sockaccelctl', 'enable', target)
        run('sockaccelctl', 'intercept', led, '--proxy', proxy, '--inbound', '7713=15006')
        with system.load():
            redirects()
        apt('purge', 'sockaccel')
        assert kernel.left() == ''
    assert surroundings() == before


def surroundings() -> tuple[set[str], set[str]]:
    """Files of the system, and its users and groups."""
    found = run('find', '/etc', '/usr', '/var/lib', '/run', '-xdev').splitlines()
    files = {path for path in found if not path.startswith((*NOT_OURS, '/run/systemd/', '/run/src'))}
    accounts = {line for database in ('passwd', 'group') for line in run('getent', database).splitlines()}
    return files, accounts
