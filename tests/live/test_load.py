# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing is lost, torn or reset, whatever happens to sockaccel while connections are busy."""

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support import harness
from tests.support.harness import Cgroup, Daemon, FdStore, PrivateBus
from tests.support.load import Load
from tests.support.patience import LONG_S, PATIENCE_S
from tests.support.systemd import Systemd
from tests.support.topology import Topology

# make soak asks for more.
ROUNDS = int(os.environ.get('SOCKACCEL_ROUNDS', '3'))
ECHOING, OLDER, IDLE = 200, 60, 50
SETTINGS = 'JoinDelayMs=0\nAcceptKernelIssues=fionread splice\nOtherNamespaces=yes\n'
UNIT = 'sockaccel.service'
pytestmark = pytest.mark.timeout(LONG_S + ROUNDS * PATIENCE_S)


class Life:
    """Daemons one after another over the same state and store, as systemd would run them."""

    def __init__(self, root: Cgroup, directory: Path, systemd: Systemd) -> None:
        self.root = root
        self.store = FdStore()
        self._state = directory
        self._systemd = systemd
        self._newer = directory / 'newer'
        self._upgraded = False
        for name in ('sockaccel', 'bpf'):
            shutil.copytree(harness.ROOT / name, self._newer / name)
        with (self._newer / 'bpf' / 'verdict.c').open('a') as source:
            source.write('\n/* Another version. */\n')
        self.daemon = self._start()

    def _start(self) -> Daemon:
        directory = self._newer if self._upgraded else harness.ROOT
        return Daemon(self.root.path, SETTINGS, state=self._state, store=self.store, directory=directory).ready()

    def _end(self, number: int) -> None:
        self.daemon.stop(number)
        self.daemon.heard()
        self.daemon.close()

    def switch(self) -> None:
        harness.call('Disable', 's', self.root.path)
        harness.call('Enable', 's', self.root.path)

    def reload(self) -> None:
        self.daemon.reload()

    def restart(self) -> None:
        self._systemd.main_unit(UNIT, self.daemon.process.pid, 'restart')
        self._end(signal.SIGTERM)
        self._systemd.main_unit(UNIT, 0, '')
        self.daemon = self._start()

    def kill(self) -> None:
        self._end(signal.SIGKILL)
        self.daemon = self._start()

    def stop_and_start(self) -> None:
        self._end(signal.SIGTERM)
        assert not self.store.fds
        self.daemon = self._start()

    def upgrade(self) -> None:
        self._upgraded = not self._upgraded
        self.restart()

    def close(self) -> None:
        self._end(signal.SIGTERM)
        assert not self.store.faults
        self.store.clear()


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    with PrivateBus(), Cgroup(f'sockaccel-load-{os.getpid()}') as root, Systemd() as systemd:
        life = Life(root, tmp_path, systemd)
        try:
            harness.call('Enable', 's', root.path)
            yield life
        finally:
            life.close()


EVENTS: list[Callable[[Life], None]] = [
    Life.switch, Life.reload, Life.restart, Life.kill, Life.stop_and_start, Life.upgrade,
]  # fmt: skip


# What a version leaves that sockets have joined which are still open: they hold its stub, which, where the maps
# are new too, names the members' old map and the verdict's.
LEFT_BY_ONE: dict[Callable[[Life], None], dict[str, int]] = {
    Life.upgrade: {'prog': 1},
    Life.stop_and_start: {'prog': 1, 'map': 2},
}


def _beside(event: Callable[[Life], None], rounds: int) -> list[dict[str, int]]:
    """How many more objects there may be after so many events, by kind.

    A socket joins one version in its life. Most join the first. One that TCP carried while that version ended
    (paused, or still judged) is adopted by a later one.
    """
    left = LEFT_BY_ONE.get(event, {})
    return [{kind: versions * more for kind, more in left.items()} for versions in range(1, rounds + 1)]


def _is_settled(event: Callable[[Life], None], rounds: int, before: dict[str, set[int]]) -> bool:
    return _grown(before) in _beside(event, rounds)


def _grown(before: dict[str, set[int]]) -> dict[str, int]:
    """How many more objects there are than before, by kind."""
    now = harness.objects()
    return {kind: more for kind in now if (more := len(now[kind]) - len(before[kind]))}


def _loads(life: Life, stack: contextlib.ExitStack) -> list[Load]:
    """Connections that are older than their target, and busy while it is enabled, and others that are not.

    Two thirds of each cross network namespaces.
    """
    towns = stack.enter_context(Topology())
    harness.call('Disable', 's', life.root.path)
    older = stack.enter_context(Load(life.root, OLDER, IDLE // 2, towns))
    harness.call('Enable', 's', life.root.path)
    return [older, stack.enter_context(Load(life.root, ECHOING - OLDER, IDLE // 2, towns))]


@pytest.mark.parametrize('event', EVENTS, ids=lambda event: event.__name__)
def test_busy_connections_do_not_notice(life: Life, event: Callable[[Life], None]) -> None:
    with contextlib.ExitStack() as stack:
        loads = _loads(life, stack)
        for load in loads:
            load.accelerate_idle()
            load.go_on()
        objects = harness.objects()
        before = harness.call('Stats')['redirected_bytes']
        assert before > 0
        for rounds in range(1, ROUNDS + 1):
            event(life)
            for load in loads:
                load.go_on()
            # The kernel frees programs and maps a little later.
            harness.wait_until(partial(_is_settled, event, rounds, objects), 'the versions before are gone')
        if event in (Life.reload, Life.restart, Life.kill, Life.upgrade):
            assert harness.call('Stats')['redirected_bytes'] > before, 'connections are not accelerated any more'


def test_a_target_whose_cgroup_goes_keeps_its_connections(life: Life) -> None:
    """The sockets live on in a process of another cgroup."""
    harness.call('Disable', 's', life.root.path)
    with Cgroup('gone', life.root) as first:
        harness.call('Enable', 's', first.path)
    _wait_until_target_is('waiting')
    for _round in range(ROUNDS):
        gone = Cgroup('gone', life.root)
        _wait_until_target_is('active')
        with Load(gone, ECHOING, IDLE) as load:
            load.accelerate_idle()
            load.go_on()
            gone.remove()
            _wait_until_target_is('waiting')
            before = harness.call('Stats')['redirected_bytes']
            load.go_on()
            assert harness.call('Stats')['redirected_bytes'] > before


def _wait_until_target_is(state: str) -> None:
    harness.wait_until(lambda: [row[1] for row in harness.targets()] == [state], f'it is {state}')
