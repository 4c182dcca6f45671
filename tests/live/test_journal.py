# SPDX-License-Identifier: GPL-2.0-or-later
"""What a real journald shows of the daemon."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockaccel.core import messages
from tests.support import harness
from tests.support.harness import ROOT, Cgroup, Daemon, PrivateBus, stop, wait_until
from tests.support.traffic import exchange, pair


class Journald:
    """A journald of our own, in a mount namespace with a /run of its own."""

    _SCRIPT = (
        'mount -t tmpfs none /run && mkdir -p /run/systemd/journal /run/log/journal && '
        'mount -t tmpfs none /usr/lib/systemd/catalog && mount -t tmpfs none /var/lib/systemd && '
        'cp packaging/catalog/sockaccel.catalog /usr/lib/systemd/catalog && journalctl --update-catalog && '
        'exec /lib/systemd/systemd-journald'
    )

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ['unshare', '--mount', '--propagation=private', 'sh', '-c', self._SCRIPT],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        socket_path = f'/proc/{self.process.pid}/root/run/systemd/journal/socket'
        ours = Path('/run').stat().st_dev
        run = Path(f'/proc/{self.process.pid}/root/run')
        try:
            wait_until(lambda: run.stat().st_dev != ours and Path(socket_path).exists(), 'journald listens')
        except BaseException:
            stop(self.process)
            raise

    def inside(self, *command: str) -> tuple[str, ...]:
        """A command for its namespace."""
        return ('nsenter', '--mount', f'--target={self.process.pid}', f'--wd={ROOT}', *command)

    def lines(self, *matches: str) -> list[dict[str, str]]:
        show = self.inside('journalctl', '--sync')
        subprocess.run(show, check=False, capture_output=True)
        show = self.inside('journalctl', '--output=json', '--directory=/run/log/journal', *matches)
        printed = subprocess.run(show, check=True, capture_output=True, text=True).stdout
        return [json.loads(line) for line in printed.splitlines()]

    def explained(self) -> str:
        show = self.inside(
            'journalctl', '-x', '--no-pager', '--directory=/run/log/journal', 'SYSLOG_IDENTIFIER=sockaccel'
        )
        return subprocess.run(show, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def journald() -> Iterator[Journald]:
    journald = Journald()
    yield journald
    stop(journald.process)


def test_the_story_in_a_real_journal(journald: Journald) -> None:
    """Who enabled what, what came of it, and the end; by fields, and explained."""
    log_control = ('org.sockaccel1', '/org/freedesktop/LogControl1', 'org.freedesktop.LogControl1')
    with (
        PrivateBus() as bus,
        Cgroup(f'sockaccel-story-{os.getpid()}') as root,
        Daemon(root.path, command=journald.inside(sys.executable, '-m', 'sockaccel')) as daemon,
    ):
        daemon.ready()
        to_journal = [
            'busctl',
            f'--address={bus.address}',
            'set-property',
            *log_control,
            'LogTarget',
            's',
            'journal',
        ]
        subprocess.run(to_journal, check=True)
        accept = [f'--accept={name}' for name in harness.every_issue()]
        assert harness.control('enable', *accept, root.path).returncode == 0
        with pair(root) as made:
            exchange(made)
        wait_until(lambda: harness.call('Stats')['connections_closed'] == 2, 'the connection is closed')
        daemon.configure('Nonsense=1\n')
        assert harness.control('reload').returncode == 1
        daemon.reload()
        assert harness.control('disable', root.path).returncode == 0
        assert daemon.stop() == 0
    lines = journald.lines('SYSLOG_IDENTIFIER=sockaccel')
    story = [line['MESSAGE'] for line in lines if not line['MESSAGE'].startswith('Falls back')]
    kinds = [text.split(' ')[0] for text in story]
    assert kinds == [
        'Enabled',
        'Joined',
        'Joined',
        'Closed',
        'Closed',
        'Reload',
        'Configuration',
        'Disabled',
        'Stopped;',
    ], story
    assert ', asked by uid 0, python' in story[0]
    assert ':3: key "Nonsense" is unknown' in story[5]
    assert 'the previous one stays in force' in story[6]
    enabled = journald.lines(f'MESSAGE_ID={messages.ENABLED}')
    assert [line['SOCKACCEL_TARGET'] for line in enabled] == [root.path]
    assert enabled[0]['SOCKACCEL_CALLER'].startswith('uid 0, python')
    assert {line['PRIORITY'] for line in lines} == {'6', '3'}
    assert len(journald.lines(f'SOCKACCEL_TARGET={root.path}')) >= 6
    explained = journald.explained()
    assert f'{root.path} is accelerated' in explained
    assert 'Correct the line' in explained
