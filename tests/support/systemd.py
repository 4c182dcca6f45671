# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in for systemd on a test's bus: units that are where the test says, and jobs.

`Systemd` runs it in a process of its own; `main()` is that process.
"""

import asyncio
import json
import os
import subprocess
import sys
from typing import Any, Self

from dbus_next import BusType, Message, MessageType, Variant
from dbus_next.aio import MessageBus

from tests.support.harness import ROOT, stop

_NAME = 'org.freedesktop.systemd1'
_PATH = '/org/freedesktop/systemd1'
_JOB = f'{_PATH}/job/1'


class Systemd:
    """A context manager. Units that were never set are `not-found`."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'tests.support.systemd'],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        return self

    def __exit__(self, *_exc: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        stop(self._process)
        self._process.stdout.close()

    def unit(
        self,
        name: str,
        *,
        cgroup: str = '',
        slice_: str = 'system.slice',
        state: str = 'loaded',
        job: str = '',
        triggers: tuple[str, ...] = (),
        listen: str = '',
    ) -> None:
        """Let a unit be like that, and tell whoever listens.

        job: that the unit's own job is of this type. triggers: the units that start it. listen: of a socket unit.
        """
        self._tell(name=name, cgroup=cgroup, slice=slice_, state=state, job=job, triggers=triggers, listen=listen)

    def main_unit(self, name: str, process: int, job: str) -> None:
        """Let a process belong to a unit, for which there is a job: `restart`, `stop`, '' for none."""
        self._tell(name=name, cgroup='', slice='system.slice', state='loaded', job=job, process=process)

    def _tell(self, **what: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(what) + '\n')
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> None:
        assert self._process.stdout
        assert self._process.stdout.readline() == 'done\n'


class _Units:
    """Answers and tells what it was told; names are escaped as hex, which nobody may guess anyway."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._units: dict[str, dict[str, Any]] = {}
        bus.add_message_handler(self._handle)

    def set(self, unit: dict[str, Any]) -> None:
        name = unit['name']
        self._units[name] = unit
        path = _path(name)
        self._bus.send(Message.new_signal(_PATH, f'{_NAME}.Manager', 'JobNew', 'uos', [1, _JOB, name]))
        self._bus.send(
            Message.new_signal(
                path, 'org.freedesktop.DBus.Properties', 'PropertiesChanged', 'sa{sv}as',
                [f'{_NAME}.Unit', {'ActiveState': Variant('s', 'activating')}, []],
            )
        )  # fmt: skip

    def _handle(self, message: Message) -> Message | bool:
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        if message.member == 'LoadUnit':
            return Message.new_method_return(message, 'o', [_path(message.body[0])])
        if message.member == 'Subscribe':
            return Message.new_method_return(message)
        if message.member == 'GetUnitByPID':
            for name, unit in self._units.items():
                if unit.get('process') == message.body[0]:
                    return Message.new_method_return(message, 'o', [_path(name)])
            return Message.new_error(message, f'{_NAME}.NoUnitForPID', 'no unit')
        if message.member == 'Get':
            return self._get(message, message.body[1])
        return False

    def _get(self, message: Message, wanted: str) -> Message:
        if wanted == 'JobType':
            types = [unit['job'] for unit in self._units.values() if unit['job']]
            return Message.new_method_return(message, 'v', [Variant('s', types[0])])
        name = bytes.fromhex(str(message.path).rpartition('/')[2].lstrip('_')).decode()
        unit = self._units.get(name, {'cgroup': '', 'slice': '', 'state': 'not-found', 'job': ''})
        values = {
            'LoadState': Variant('s', unit['state']),
            'ControlGroup': Variant('s', unit['cgroup']),
            'Slice': Variant('s', unit['slice']),
            'TriggeredBy': Variant('as', unit.get('triggers', [])),
            'Listen': Variant(
                'a(ss)',
                [
                    ['Stream', unit.get('listen', '')],
                    ['Stream', '/run/its.socket'],
                    ['Stream', 'vsock:2:1234'],
                ],
            ),
            'Job': Variant('(uo)', [1, _JOB] if unit['job'] else [0, '/']),
        }
        return Message.new_method_return(message, 'v', [values[wanted]])


def _path(name: str) -> str:
    return f'{_PATH}/unit/_{name.encode().hex()}'


async def main() -> None:
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    units = _Units(bus)
    await bus.request_name(_NAME)
    print('done', flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        units.set(json.loads(line))
        print('done', flush=True)
    os._exit(0)


if __name__ == '__main__':
    asyncio.run(main())
