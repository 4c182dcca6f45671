# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics come by the two ways that an administrator can enable."""

import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installed import system
from tests.installed.system import attempt, run
from tests.support.harness import wait_until

UNITS = ('sockaccel-metrics.socket', 'sockaccel-textfile.timer')
DIRECTORY = Path('/var/lib/prometheus/node-exporter')
FILE = DIRECTORY / 'sockaccel.prom'
URL = 'http://127.0.0.1:19435/metrics'


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    attempt('systemctl', 'disable', '--now', *UNITS)
    run('systemctl', 'stop', 'sockaccel-textfile.service')
    FILE.unlink(missing_ok=True)


@pytest.fixture
def directory() -> Iterator[None]:
    """What prometheus-node-exporter brings along."""
    made = not DIRECTORY.exists()
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    yield
    if made:
        shutil.rmtree(DIRECTORY.parent)


def scraped() -> str:
    with urllib.request.urlopen(URL, timeout=60) as answer:
        return str(answer.read().decode())


def test_both_are_off_until_somebody_enables_them() -> None:
    assert [attempt('systemctl', 'is-enabled', unit).stdout for unit in UNITS] == ['disabled\n'] * 2
    assert [attempt('systemctl', 'is-active', unit).stdout for unit in UNITS] == ['inactive\n'] * 2


def test_a_scrape(sockaccel: None) -> None:
    run('systemctl', 'enable', '--now', 'sockaccel-metrics.socket')
    with system.echo() as target:
        run('sockaccelctl', 'enable', target)
        said = scraped()
    assert '\nsockaccel_up 1\n' in said
    assert f'sockaccel_target_state{{target="{target}",state="active"}} 1' in said


def test_a_file_for_node_exporter(sockaccel: None, directory: None) -> None:
    run('systemctl', 'enable', '--now', 'sockaccel-textfile.timer')
    wait_until(FILE.exists, 'the timer has run')
    assert '\nsockaccel_up 1\n' in FILE.read_text()
    assert FILE.stat().st_mode & 0o777 == 0o644


def test_neither_starts_a_daemon_that_was_stopped(sockaccel: None, directory: None) -> None:
    run('systemctl', 'enable', '--now', 'sockaccel-metrics.socket')
    run('systemctl', 'stop', 'sockaccel')
    run('systemctl', 'start', 'sockaccel-textfile.service')
    for said in (FILE.read_text(), scraped()):
        assert 'sockaccel_up 0\n' in said
    assert attempt('systemctl', 'is-active', 'sockaccel').stdout == 'inactive\n'


def test_without_node_exporter_nothing_is_written() -> None:
    if DIRECTORY.exists():
        shutil.rmtree(DIRECTORY)
    run('systemctl', 'start', 'sockaccel-textfile.service')
    assert system.show('sockaccel-textfile.service', 'ConditionResult') == 'no'
