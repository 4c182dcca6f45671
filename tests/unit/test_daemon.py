# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of the daemon that need no daemon: its sentence for systemd, and the reload of its configuration."""

import asyncio
import dataclasses
import subprocess
import sys
from typing import Any

import pytest
from structlog.testing import capture_logs

from sockaccel.core.config import Config
from sockaccel.core.connection import EventKind
from sockaccel.core.policy import Policy
from sockaccel.daemon import Configuration, _report_stopped, main, status
from sockaccel.errors import InvalidConfiguration
from sockaccel.kernel.abi import EVENT, FLOW
from sockaccel.kernel.records import event_from
from tests.support.harness import ROOT
from tests.support.memory_kernel import defaults, world
from tests.support.memory_lead import LeadWorld


class Told:
    """What the kernel side and systemd are told, in a row."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *values, **named: self.calls.append((name, *values, *named.values()))


def reload(before: Config, after: Config | Exception) -> tuple[Config, list[tuple[Any, ...]], list[str]]:
    """What is in force after a reload, what it told others, and what it logged."""
    told: Any = Told()

    def read() -> Config:
        if isinstance(after, Exception):
            raise after
        return after

    async def story() -> Config:
        made = world(policies=before.policies)
        await made.engine.start()
        await made.engine.enable('/x')
        configuration = Configuration(read, list, before, made.engine, LeadWorld().all, told, told)
        configuration.reload_later()
        await asyncio.gather(*configuration._reloads)
        assert made.kernel.policies == {1: configuration.in_force.policies.defaults.on(Policy())}
        return configuration.in_force

    with capture_logs() as lines:
        in_force = asyncio.run(story())
    return in_force, told.calls, [line['event'] for line in lines]


def test_the_sentence_for_systemd() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        assert status(made.engine).startswith('Idle: no targets.')
        await made.engine.enable('/x')
        await made.engine.enable('late.service')
        assert status(made.engine) == 'Accelerating: /x (active), late.service (waiting)'

    asyncio.run(story())


def test_a_reload_reaches_everybody() -> None:
    policies = defaults(BlockingReaders='yes', ExcludePorts='80', JoinDelayMs='500')
    after = Config(policies=policies, events_per_second=7)
    in_force, calls, lines = reload(Config(), after)
    assert in_force == after
    assert calls == [
        ('reloading',),
        ('tune', 7, True),
        ('reloaded', 'Accelerating: /x (active)'),
    ]
    assert lines[-1] == 'Configuration reloaded'


def test_a_reload_that_fails_changes_nothing_and_ends() -> None:
    """systemd waits for READY=1 after RELOADING=1, whatever came of it."""
    in_force, calls, lines = reload(Config(), InvalidConfiguration('line 3 is wrong'))
    assert in_force == Config()
    assert [name for name, *_values in calls] == ['reloading', 'reloaded']
    assert lines[-1] == 'Configuration not reloaded, the previous one stays in force: line 3 is wrong'


@pytest.mark.parametrize(
    ('change', 'key'),
    [({'maximum_connections': 5}, 'MaximumConnections'), ({'cgroup_root': '/x'}, 'CgroupRoot')],
)
def test_what_only_a_restart_changes_is_named(change: dict[str, Any], key: str) -> None:
    _in_force, _calls, lines = reload(Config(), dataclasses.replace(Config(), **change))
    assert lines[-1] == f'{key}= changes with the next restart, ignoring'


def test_the_line_of_a_stop_shows_names_as_the_kernel_side_made_them_printable() -> None:
    """A program chooses its own name."""
    packed = FLOW.pack(1, bytes(16), bytes(16), 1, 2, 0)
    data = EVENT.pack(
        packed, bytes(8), *range(8), EventKind.CONNECTION, 0, 1, 1, 1, 42, 0, 0, 0, 0, b'\033[2J\r\nfake\0'
    )
    with capture_logs() as lines:
        _report_stopped([event_from(data)])
    assert lines[0]['event'].endswith('(\ufffd[2J\ufffd\ufffdfake[42])')
    assert lines[0]['event'].isprintable()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(['--version'])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith('sockaccel ')


@pytest.mark.parametrize('program', ['sockaccel.__main__', 'sockaccel.ctl.cli'])
def test_libraries_that_it_has_no_use_for_are_not_loaded(program: str) -> None:
    """They are megabytes, which others bring along."""
    script = f'import {program}; print(open("/proc/self/maps").read())'
    maps = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert not [name for name in ('libssl', 'libcrypto', 'libgobject') if name in maps]
