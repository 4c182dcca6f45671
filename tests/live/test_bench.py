# SPDX-License-Identifier: GPL-2.0-or-later
"""`sockaccelctl bench` measures what it says, and leaves nothing behind."""

import argparse
import asyncio
import json

import pytest

from sockaccel.ctl import bench
from sockaccel.ctl.client import Client
from tests.support import harness
from tests.support.harness import Cgroup


def run() -> int:
    async def once() -> int:
        async with Client() as client:
            return await bench.bench(client, argparse.Namespace(json=True))

    return asyncio.run(once())


def test_measures_every_way(
    own_daemon: Cgroup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, 'ROUNDS', 1)
    assert run() == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row['work'] for row in rows] == [work.name for work in bench.WORKS]
    for row in rows:
        assert min(row[way] for way in (bench.PLAIN, bench.UNIX, bench.ACCELERATED)) > 0
        # How much depends on what else the machine does.
        assert row['redirected'] > 0, row
    assert not harness.targets()
    assert not list(own_daemon.directory.glob('sockaccel-bench-*'))


def test_where_all_is_a_target(own_daemon: Cgroup) -> None:
    harness.enable('*', *harness.every_issue())
    with pytest.raises(bench.BenchFailed, match='no plain TCP'):
        run()
    assert [name for name, _state, _detail in harness.targets()] == ['*']
    assert not list(own_daemon.directory.glob('sockaccel-bench-*'))
