# SPDX-License-Identifier: GPL-2.0-or-later
"""The unit: start, confinement, reload, and every way to end."""

import json
import os
import signal
from pathlib import Path

from tests.installed import system
from tests.installed.system import attempt, journal, main_pid, redirects, run, show, stats, targets
from tests.support.harness import wait_until

# Those that the loader has for its seconds.
CAPABILITIES = {'CAP_NET_ADMIN': 12, 'CAP_PERFMON': 38, 'CAP_BPF': 39}


def test_installation_starts_nothing() -> None:
    assert attempt('systemctl', 'is-enabled', 'sockaccel.service').stdout == 'disabled\n'
    assert show('sockaccel.service', 'ActiveState') == 'inactive'
    # Without the alias of an enabled unit a message on the bus starts nothing either.
    assert attempt(*system.CALL, 'Stats').returncode != 0
    assert show('sockaccel.service', 'ActiveState') == 'inactive'


def test_started_it_is_ready() -> None:
    run('systemctl', 'enable', '--now', 'sockaccel.service')
    assert show('sockaccel.service', 'ActiveState') == 'active'
    assert stats()
    began, ready = (
        int(show('sockaccel.service', f'{moment}TimestampMonotonic')) for moment in ('InactiveExit', 'ActiveEnter')
    )
    # A figure for who reads the output of a machine of the kernel matrix.
    print('ready after', (ready - began) / 1e6, 's')


def test_a_message_starts_an_enabled_unit() -> None:
    run('systemctl', 'enable', 'sockaccel.service')
    assert run(*system.CALL, 'Stats').startswith('a{st} ')
    assert show('sockaccel.service', 'ActiveState') == 'active'


def test_idle_status_says_what_to_do(sockaccel: None) -> None:
    assert 'sockaccelctl enable' in show('sockaccel.service', 'StatusText')


def test_confined(sockaccel: None) -> None:
    user = run('id', '--user', 'sockaccel').strip()
    assert stats()
    # A listing starts threads.
    run('sockaccelctl', 'connections')
    threads = statuses(main_pid())
    assert len(threads) > 1
    for status in threads:
        assert set(status['Uid'].split()) == {user} != {'0'}
        for which in ('CapEff', 'CapPrm', 'CapInh', 'CapAmb'):
            assert int(status[which], 16) == 0, status
        assert int(status['CapBnd'], 16) == sum(1 << n for n in CAPABILITIES.values())
        assert status['NoNewPrivs'] == '1'
        assert status['Seccomp'] == '2'


def statuses(pid: int) -> list[dict[str, str]]:
    """What /proc tells of each thread of a process."""
    texts = [path.read_text() for path in Path(f'/proc/{pid}/task').glob('*/status')]
    return [dict(line.split(':\t', 1) for line in text.splitlines() if ':\t' in line) for text in texts]


def test_all_that_the_daemon_does_needs_no_capability(sockaccel: None) -> None:
    """On the oldest kernel too: attach, find listeners, join, redirect, list, sweep, let go, and attach again."""
    with system.echo() as target:
        for _time in range(2):
            run('sockaccelctl', 'enable', target)
            with system.load():
                redirects()
                assert json.loads(run('sockaccelctl', 'connections', '--json'))
            run('sockaccelctl', 'disable', target)
    assert not [line for line in journal('PRIORITY=3') if 'ignoring' in line['MESSAGE']]


def test_the_journal_names_who_asked(sockaccel: None) -> None:
    """By a unit, which systemd knows; the daemon sees no process of others."""
    run(
        'systemd-run', '--wait', '--unit=sa-asks.service', '/usr/bin/sockaccelctl', 'enable', '--runtime',
        'sa-nowhere.service', '--wait',
    )  # fmt: skip
    (line,) = [line['MESSAGE'] for line in journal() if line['MESSAGE'].startswith('Enabled "sa-nowhere.service"')]
    assert 'asked by uid 0, sa-asks.service[' in line


def test_unit_is_hardened_and_without_faults() -> None:
    said = attempt('systemd-analyze', 'security', '--offline=yes', '--threshold=15', 'sockaccel.service')
    assert said.returncode == 0, said.stdout[-300:]
    verified = attempt('systemd-analyze', 'verify', 'sockaccel.service')
    assert verified.returncode == 0
    assert 'sockaccel' not in verified.stdout + verified.stderr


def test_reload_reads_the_configuration(sockaccel: None) -> None:
    system.DROP_IN.write_text('[Sockaccel]\nEventsPerSecond=7\n')
    run('systemctl', 'reload', 'sockaccel.service')
    wait_until(
        lambda: any(line['MESSAGE'].startswith('Configuration reloaded') for line in journal()),
        'the reload is in the journal',
    )
    assert show('sockaccel.service', 'ActiveState') == 'active'
    system.DROP_IN.write_text('[Sockaccel]\nEventsPerSecond=many\n')
    run('systemctl', 'reload', 'sockaccel.service')
    wait_until(
        lambda: any('"many"' in line['MESSAGE'] and line['PRIORITY'] == '3' for line in journal()),
        'the fault is in the journal',
    )
    assert show('sockaccel.service', 'ActiveState') == 'active'


def test_wrong_configuration_is_told_once_and_not_tried_again() -> None:
    system.DROP_IN.parent.mkdir()
    system.DROP_IN.write_text('[Sockaccel]\nColour=blue\n')
    assert attempt('systemctl', 'start', 'sockaccel.service').returncode != 0
    assert show('sockaccel.service', 'ExecMainStatus') == '78'
    assert show('sockaccel.service', 'NRestarts') == '0'
    assert f'{system.DROP_IN}:2' in show('sockaccel.service', 'StatusText')


def test_restart_under_load(sockaccel: None) -> None:
    with system.echo() as target:
        run('sockaccelctl', 'enable', target)
        with system.load():
            redirects()
            for _time in range(3):
                run('systemctl', 'restart', 'sockaccel.service')
                assert targets() == {target: 'active'}
                redirects()


def test_killed_under_load(sockaccel: None) -> None:
    with system.echo() as target:
        run('sockaccelctl', 'enable', target)
        with system.load():
            redirects()
            before = main_pid()
            os.kill(before, signal.SIGKILL)
            wait_until(
                lambda: main_pid() not in (0, before) and system.answers(),
                'it is started anew',
            )
            assert targets() == {target: 'active'}
            redirects()


def test_watchdog_ends_a_daemon_that_hangs(sockaccel: None) -> None:
    drop_in = Path('/run/systemd/system/sockaccel.service.d/watchdog.conf')
    drop_in.parent.mkdir()
    # Long enough for a daemon that does not hang, whatever else the machine does.
    drop_in.write_text('[Service]\nWatchdogSec=20s\n')
    run('systemctl', 'daemon-reload')
    try:
        run('systemctl', 'restart', 'sockaccel.service')
        with system.echo() as target:
            run('sockaccelctl', 'enable', target)
            with system.load():
                redirects()
                before = main_pid()
                os.kill(before, signal.SIGSTOP)
                wait_until(
                    lambda: main_pid() not in (0, before) and system.answers(),
                    'it is started anew',
                )
                redirects()
        told = run('journalctl', '--boot', '--unit=sockaccel', '--no-pager', '--output=cat')
        assert 'Watchdog timeout' in told
    finally:
        drop_in.unlink()
        drop_in.parent.rmdir()
        run('systemctl', 'daemon-reload')


def test_stop_under_load_leaves_plain_tcp(sockaccel: None) -> None:
    with system.echo() as target:
        run('sockaccelctl', 'enable', target)
        with system.load():
            redirects()
            run('systemctl', 'stop', 'sockaccel.service')
            assert show('sockaccel.service', 'Result') == 'success'
            assert show('sockaccel.service', 'NFileDescriptorStore') == '0'


def test_second_instance_leaves_the_first_alone(sockaccel: None) -> None:
    second = attempt('/usr/sbin/sockaccel')
    assert second.returncode == 1
    assert 'another sockaccel' in second.stderr
    assert stats()
    assert json.loads(run('sockaccelctl', 'status', '--json'))['Degraded'] is not None
