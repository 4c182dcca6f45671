# SPDX-License-Identifier: GPL-2.0-or-later
"""How the journal names who asked for a change."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from sockaccel.dbus.connection import Connection, unescaped
from sockaccel.errors import AskFailed


class Bus(Connection):
    """unit: the object that systemd answers with; '' where it fails, None where there is no systemd."""

    def __init__(self, pid: int, unit: str | None) -> None:
        self._pid = pid
        self._unit = unit

    async def user_of(self, _sender: str) -> int:
        return 1000

    async def _ask_bus(self, member: str, _signature: str = '', *_body: Any) -> Any:
        return {
            'NameHasOwner': self._unit is not None,
        }[member]

    async def _ask_of(self, _sender: str, member: str) -> Any:
        return {'GetConnectionUnixProcessID': self._pid}[member]

    async def ask(self, *arguments: Any, **_options: Any) -> list[Any]:
        assert arguments[3:6] == ('GetUnitByPID', 'u', [self._pid])
        if not self._unit:
            raise AskFailed('no unit')
        return [f'/org/freedesktop/systemd1/unit/{self._unit}']


def described(pid: int, unit: str | None) -> str:
    return asyncio.run(Bus(pid, unit).describe(':1.7'))


def test_by_its_unit() -> None:
    assert described(4000000, 'session_2d3_2escope') == 'uid 1000, session-3.scope[4000000]'
    assert unescaped('user_401000_2eservice') == 'user@1000.service'


@pytest.mark.parametrize('unit', ['', None])
def test_by_its_program_where_no_unit_is_known(unit: str | None) -> None:
    program = Path(f'/proc/{os.getpid()}/comm').read_text().strip()
    assert described(os.getpid(), unit) == f'uid 1000, {program}[{os.getpid()}]'
    # Nobody has so high a number.
    assert described(2**22 + 1, unit) == f'uid 1000, process[{2**22 + 1}]'


def test_a_program_cannot_write_into_the_log() -> None:
    comm = Path(f'/proc/{os.getpid()}/comm')
    before = comm.read_text()
    comm.write_text('\033[2J\nfake')
    try:
        assert described(os.getpid(), None) == f'uid 1000, \ufffd[2J\ufffdfake[{os.getpid()}]'
    finally:
        comm.write_text(before.strip())
