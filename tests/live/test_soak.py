# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon as `make install` puts it, for $SOCKACCEL_SOAK_SECONDS, while everybody does what they like.

Users flood it with calls, follow events and do not read them, and listeners, connections and cgroups come and go.
It stays the same process, its memory stays bounded, and root's calls are answered all the while.
"""

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockaccel.ctl.client import Client, strings
from tests.support import harness
from tests.support.churn import Churn
from tests.support.flood import Flood
from tests.support.harness import ROOT, Cgroup, Daemon, PrivateBus
from tests.support.patience import PATIENCE_S

SECONDS = float(os.environ.get('SOCKACCEL_SOAK_SECONDS', '5'))
MODULES = '/usr/lib/python3/modules'
# Users that every system has: dbus-daemon wants to know them.
USERS = {'nobody': 65534, 'daemon': 1, 'bin': 2}
# What it may grow by above twice its start: a listing of what is there, and queues of three users.
_ALLOWANCE_KB = 64 * 1024


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A directory in which everything is installed."""
    subprocess.run(
        ['make', '--silent', '--directory', ROOT, 'install', f'DESTDIR={tmp_path}', f'PYTHONDIR={MODULES}',
         'UNITDIR=/usr/lib/systemd/system', f'PYTHON={sys.executable}'],
        check=True,
    )  # fmt: skip
    return tmp_path


@contextlib.contextmanager
def packaged(installed: Path, cgroup: Cgroup, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """The installed program with the installed modules; it finds the BPF sources beside them."""
    Path(f'{installed}{MODULES}/bpf').symlink_to(f'{installed}/usr/share/sockaccel/bpf')
    with monkeypatch.context() as here:
        here.setenv('PYTHONPATH', f'{installed}{MODULES}')
        command = (sys.executable, f'{installed}/usr/sbin/sockaccel')
        daemon = Daemon(cgroup.path, 'JoinDelayMs=0\n', command=command, directory=installed)
    with daemon:
        yield daemon.ready()


def rss_kb(pid: int) -> int:
    (line,) = [line for line in Path(f'/proc/{pid}/status').read_text().splitlines() if line.startswith('VmRSS:')]
    return int(line.split()[1])


class Soak:
    """One round after the other; `worst_kb`: the most memory that was seen."""

    def __init__(self, daemon: Daemon, root: Cgroup) -> None:
        self.daemon, self.root = daemon, root
        self.chance = random.Random(7)
        self.rounds = 0
        self.issues = harness.every_issue()
        self.worst_kb = rss_kb(daemon.process.pid)

    async def one(self, client: Client) -> None:
        """A target is made and goes, with what root asks on the way."""
        self.rounds += 1
        name = f'round-{self.rounds % 5}'
        with Cgroup(name, self.root) as cgroup:
            await client.call(
                'EnableWithOptions', 'sa{sv}', cgroup.path, {'AcceptKernelIssues': strings(self.issues)}
            )
            with contextlib.ExitStack() as stack, cgroup.inside():
                for _listener in range(self.chance.randrange(200)):
                    stack.enter_context(socket.create_server(('127.0.0.1', 0)))
            if self.chance.random() < 0.5:
                await client.call('Reload')
            rows, _total, _listing = await client.call('ListConnections', 'a{sv}tt', {}, 0, 0)
            assert all(row['client_program'] or row['server_program'] for row in rows)
            assert 'connections' in await client.call('Stats')
            await client.call('Disable', 's', cgroup.path)
        assert self.daemon.process.poll() is None, self.daemon.log.read_text()
        self.worst_kb = max(self.worst_kb, rss_kb(self.daemon.process.pid))

    async def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        async with Client() as client:
            # It follows the events and reads none.
            await client.call('Subscribe', 'a{sv}', {})
            while time.monotonic() < end:
                await asyncio.wait_for(self.one(client), PATIENCE_S)


def test_root_is_answered_whatever_others_do(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Cgroup(f'sockaccel-soak-{os.getpid()}') as root,
        PrivateBus(),
        packaged(installed, root, monkeypatch) as daemon,
        Cgroup('busy', root) as busy,
        contextlib.ExitStack() as stack,
    ):
        before = rss_kb(daemon.process.pid)
        harness.enable(busy.path, *harness.every_issue())
        churn = stack.enter_context(Churn(busy))
        floods = [stack.enter_context(Flood('random', user)) for user in USERS.values()]
        floods.append(stack.enter_context(Flood('listings', USERS['nobody'])))
        soak = Soak(daemon, root)
        asyncio.run(soak.run(SECONDS))
        assert all(flood.still_runs() for flood in floods)
        assert churn.end()['made'] > 0
        print(
            f'{soak.rounds} rounds; memory of the daemon: {before // 1024} MB at the start, '
            f'{soak.worst_kb // 1024} MB at most'
        )
        assert soak.worst_kb < 2 * before + _ALLOWANCE_KB
        assert 'Traceback' not in daemon.log.read_text()
