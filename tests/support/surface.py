# SPDX-License-Identifier: GPL-2.0-or-later
"""The D-Bus interface over the real engine and a kernel in memory: what the bus does to callers needs no BPF.

`python3 -m tests.support.surface CONNECTIONS` runs it until SIGTERM, and prints a line when it is ready.
"""

import asyncio
import signal
import subprocess
import sys
from typing import Self

from sockaccel.bus.service import Service
from sockaccel.core import config
from sockaccel.core.listing import Connections, Sight
from sockaccel.kernel.abi import COUNTERS, EVENT, MAX_LISTED
from sockaccel.kernel.ends import Ends
from sockaccel.systemd import journal
from tests.support.harness import ROOT, stop
from tests.support.memory_kernel import ISSUE, defaults, packed_ends, world
from tests.support.memory_lead import LeadWorld
from tests.support.patience import PATIENCE_S


async def _reload(_by: str) -> None:
    return


async def run(count: int) -> None:
    """count: how many connections there are. An issue of the kernel is accepted, and each counter stands at 10."""
    journal.configure()
    journal.set_target('console')
    made = world([ISSUE], defaults(AcceptKernelIssues=ISSUE.name))
    made.kernel.table[0] = [10] * len(COUNTERS)
    engine, settings, data = made.engine, config.load([]), packed_ends(count)
    await engine.start()
    loop = asyncio.get_running_loop()
    service = await Service.open()
    part = MAX_LISTED * EVENT.size
    sight = Sight(
        Ends(lambda: (data[at : at + part] for at in range(0, len(data), part))),
        lambda: {1: '/x.service'},
        lambda _slot: 'x.service',
        COUNTERS,
        loop,
    )
    manager = await service.export(
        engine,
        LeadWorld().all,
        Connections(sight, loop),
        _reload,
        lambda: settings,
        journal,
        lambda: None,
        netns=1,
    )
    engine.on_change, engine.on_event = manager.targets_changed, manager.publish
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    service.connection.when_lost(ended.set)
    await service.take_name()
    print('ready', flush=True)
    await ended.wait()
    await service.close()


class Surface:
    """It, as a process on the bus of DBUS_SYSTEM_BUS_ADDRESS.

    dev: in Python's development mode, in which asyncio takes some three times as long for each task.
    """

    def __init__(self, count: int = 0, *, dev: bool = True) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *(['-X', 'dev'] if dev else []), '-m', 'tests.support.surface', str(count)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout
        assert self.process.stdout.readline() == 'ready\n', self.stop()
        self.said = self._forgiven = ''

    def stop(self) -> str:
        """End it; returns what it said to stderr."""
        if self.process.poll() is None:
            self.process.terminate()
        _stdout, self.said = self.process.communicate(timeout=PATIENCE_S)
        return self.said

    def forgive(self, defect: str) -> None:
        """A traceback of this kind is expected in the log, one time."""
        self._forgiven = defect

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
        stop(self.process)
        assert self.said.count('Traceback') == (1 if self._forgiven else 0), self.said
        assert self._forgiven in self.said


if __name__ == '__main__':
    asyncio.run(run(int(sys.argv[1])))
