# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon with nothing to do sleeps: no thread of it wakes up, whatever it has enabled and accelerated."""

import asyncio
import contextlib
import math
import os
from pathlib import Path

import pytest

from sockaccel.ctl.client import Client
from tests.support import harness, traffic
from tests.support.harness import Cgroup, Daemon, PrivateBus
from tests.support.systemd import Systemd

# make soak asks for more.
SECONDS = int(os.environ.get('SOCKACCEL_IDLE_SECONDS', '10'))
WATCHDOG_S = 6


def _wake_ups(daemon: Daemon) -> dict[str, int]:
    """How often each thread went to sleep so far, by its number: once for each time that it was awake."""
    return {task.name: _slept(task) for task in _tasks(daemon)}


def _tasks(daemon: Daemon) -> list[Path]:
    return sorted(Path(f'/proc/{daemon.process.pid}/task').iterdir())


def _slept(task: Path) -> int:
    lines = (task / 'status').read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith('voluntary_ctxt_switches')))


def _sleeps_for(daemon: Daemon) -> float:
    """For how many seconds at most its event loop went to sleep, 0 while it is awake.

    That is when its earliest timer is due. The time limit is the fourth argument of the system call, epoll_wait()
    or epoll_pwait() (proc(5), /proc/PID/syscall).
    """
    words = Path(f'/proc/{daemon.process.pid}/syscall').read_text().split()
    if len(words) < 5:
        return 0
    limit = int(words[4], 16) & 0xFFFFFFFF
    return math.inf if limit == 0xFFFFFFFF else limit / 1000


@pytest.mark.parametrize('watched', [False, True], ids=['without a watchdog', 'with a watchdog'])
def test_an_idle_daemon_does_not_wake_up(monkeypatch: pytest.MonkeyPatch, watched: bool) -> None:  # noqa: FBT001
    if watched:
        monkeypatch.setenv('WATCHDOG_USEC', str(WATCHDOG_S * 1_000_000))
    with contextlib.ExitStack() as stack:
        stack.enter_context(PrivateBus())
        stack.enter_context(Systemd())
        root = stack.enter_context(Cgroup(f'sockaccel-idle-{os.getpid()}'))
        daemon = stack.enter_context(Daemon(root.path)).ready()
        active = [stack.enter_context(Cgroup(f'active-{number}', root)) for number in range(5)]
        for cgroup in active:
            harness.enable(cgroup.path, *harness.every_issue())
        for number in range(3):
            with Cgroup(f'gone-{number}', root) as gone:
                harness.enable(gone.path, *harness.every_issue())
        for number in range(2):
            harness.enable(f'never-{number}.service', *harness.every_issue(), wait=True)
        pairs = [stack.enter_context(traffic.pair(cgroup)) for cgroup in active]
        for pair in pairs:
            traffic.exchange(pair)
        traffic.write(pairs[0].client, b'unread')
        if not watched:
            # A candidate that never becomes suitable. Beside the watchdog nobody sees from outside when the last
            # look at it is due.
            stack.enter_context(traffic.pair(active[0], blocking=True))
        asyncio.run(_measure(daemon, watched=watched))
        assert len(traffic.members()) == 2 * len(pairs)


async def _measure(daemon: Daemon, *, watched: bool) -> None:
    # The one client of the bus stays there: that one has left is news for the daemon too.
    async with Client() as client:
        states = [row['state'] for row in await client.call('ListTargets')]
        assert sorted(states) == ['active'] * 5 + ['waiting'] * 5
        # The watchdog is fed at half its time; no other timer is pending if none is due before.
        harness.wait_until(
            lambda: WATCHDOG_S / 2 - 0.1 < _sleeps_for(daemon) <= WATCHDOG_S / 2
            if watched
            else _sleeps_for(daemon) == math.inf,
            'the daemon has nothing more to do',
        )
        before, fed_before = _reading(daemon)
        # Nothing to wait for: what is measured is that nothing happens. No timer can wake one later that sleeps
        # without a limit.
        await asyncio.sleep(SECONDS)
        harness.wait_until(lambda: (_reading(daemon)[1] > fed_before) == watched, 'the watchdog is fed')
        after, fed = _reading(daemon)
        assert after.keys() == before.keys()
        assert sum(after.values()) - sum(before.values()) == fed - fed_before


def _reading(daemon: Daemon) -> tuple[dict[str, int], int]:
    """How often each thread went to sleep and how often the watchdog was fed, of one moment in which it sleeps."""
    while True:
        slept = _wake_ups(daemon)
        fed = daemon.heard().count('WATCHDOG=1')
        if _sleeps_for(daemon) and _wake_ups(daemon) == slept:
            return slept, fed
