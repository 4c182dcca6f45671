# SPDX-License-Identifier: GPL-2.0-or-later
"""The control surface over a core that only remembers: what the bus does to callers needs no kernel.

`python3 -m tests.support.surface CONNECTIONS` serves it until SIGTERM, and prints a line when it is ready.
"""

import asyncio
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Self

from sockaccel.bus import polkit
from sockaccel.bus import server as bus
from sockaccel.core import config
from sockaccel.core.connection import ConnectionState, Counter, EventKind
from sockaccel.core.engine import State, TargetStatus
from sockaccel.core.finding import Finding
from sockaccel.core.listing import Connections
from sockaccel.core.target import Target
from sockaccel.errors import UnknownTarget
from sockaccel.kernel import layout
from sockaccel.kernel.layout import EVENT, FLOW
from sockaccel.systemd import journal
from tests.support.harness import ROOT, stop

SERVER_PORT = 5432


def ends(count: int, target_slot: int = 1) -> bytes:
    """What the kernel prints of count joined connections; the later, the busier."""
    loopback = bytes(10) + b'\xff\xff\x7f\0\0\1'
    found = []
    for number in range(count):
        port = 10000 + number % 50000
        # One network namespace has not enough ports.
        netns = 1 + number // 50000
        client = FLOW.pack(netns, loopback, loopback, port, SERVER_PORT, 0)
        server = FLOW.pack(netns, loopback, loopback, SERVER_PORT, port, 0)
        for flow, active, program in ((client, 1, b'psql'), (server, 0, b'postgres')):
            cookie = 2 * number + active
            found.append(
                EVENT.pack(
                    flow,
                    1,
                    cookie,
                    cookie ^ 1,
                    1,
                    number,
                    1,
                    0,
                    0,
                    EventKind.CONNECTION,
                    0,
                    target_slot,
                    1,
                    active,
                    100 + active,
                    0,
                    ConnectionState.JOINED,
                    program,
                )  # fmt: skip
            )
    return b''.join(found)


@dataclass
class Core:
    """Answers what sockaccel.bus.server asks of an engine."""

    counters: list[Counter]
    findings: list[Finding] = field(default_factory=lambda: [Finding('fionread', 'issue', 'FIONREAD is wrong')])
    enabled: dict[str, str] = field(default_factory=dict)
    reset: int = 0
    on_change: Any = None

    async def enable(self, name: str, accept: Any = (), *, runtime: bool = False, by: str = '') -> None:
        if name == '/defect':
            raise ZeroDivisionError('a defect')
        self.enabled[Target.parse(name).name] = f'{by} {sorted(accept)} {runtime}'
        self.on_change()

    async def disable(self, name: str, *, runtime: bool = False, by: str = '') -> None:
        if self.enabled.pop(name, None) is None:
            raise UnknownTarget(f'target "{name}" is not enabled')
        self.on_change()

    def stats(self) -> dict[str, int]:
        prefix = {'total': '', 'connection': 'connection_reason_', 'message': 'message_reason_'}
        return {prefix[counter.kind] + counter.name: 10 for counter in self.counters}

    def target_stats(self, _name: str) -> dict[str, int]:
        return self.stats()

    def stats_since_reset(self, _name: str) -> dict[str, int]:
        return {name: value - self.reset for name, value in self.stats().items()}

    def reset_counters(self, _name: str) -> None:
        self.reset = 10

    def targets(self) -> list[TargetStatus]:
        return [TargetStatus(name, State.ACTIVE, detail) for name, detail in self.enabled.items()]

    def reason(self, _index: int) -> None:
        return None


async def _reload(_by: str) -> None:
    return


async def serve(count: int) -> None:
    journal.configure()
    journal.set_target('console')
    counters = layout.counters(layout.source_directory())
    core, settings = Core(counters), config.load([])
    data = ends(count)
    system_bus = await bus.connect(polkit.Authority().authorise)
    connections = Connections(lambda: data, lambda: {1: '/x.service'}, lambda _slot: 'x.service', counters)
    manager = await bus.export(
        system_bus,
        core,
        connections,
        _reload,
        lambda: settings,
        lambda: None,
    )
    core.on_change = manager.targets_changed
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    system_bus.when_lost(ended.set)
    await system_bus.own_name()
    print('ready', flush=True)
    await ended.wait()
    await system_bus.close()


class Surface:
    """It, as a process on the bus of DBUS_SYSTEM_BUS_ADDRESS."""

    def __init__(self, count: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, '-X', 'dev', '-m', 'tests.support.surface', str(count)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout
        assert self.process.stdout.readline() == 'ready\n', self.stop()
        self.said = self._forgiven = ''

    def stop(self) -> str:
        """End it; returns what it said to stderr."""
        if self.process.poll() is None:
            self.process.terminate()
        _stdout, self.said = self.process.communicate(timeout=30)
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
    asyncio.run(serve(int(sys.argv[1])))
