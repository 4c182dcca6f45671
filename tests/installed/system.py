# SPDX-License-Identifier: GPL-2.0-or-later
"""What an administrator types, and services with traffic to try it on."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.harness import ROOT, wait_until

UNITS = Path('/run/systemd/system')
CALL = ('busctl', 'call', 'org.sockaccel1', '/org/sockaccel1', 'org.sockaccel1.Manager')
DROP_IN = Path('/etc/sockaccel/sockaccel.conf.d/90-test.conf')


def attempt(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run(*command: str) -> str:
    """Its output. Raises AssertionError with what it said if it fails."""
    result = attempt(*command)
    assert result.returncode == 0, f'{" ".join(command)}: {result.returncode}\n{result.stdout}{result.stderr}'
    return result.stdout


def show(unit: str, name: str) -> str:
    """A property of a unit."""
    return run('systemctl', 'show', '--property', name, '--value', unit).strip()


def main_pid() -> int:
    return int(show('sockaccel.service', 'MainPID'))


def stats() -> dict[str, int]:
    return dict(json.loads(run('sockaccelctl', 'stats', '--json')))


def targets() -> dict[str, str]:
    """Name to state."""
    return {
        row['name']: row['state'] for row in json.loads(run('sockaccelctl', 'status', '--json'))['TargetStates']
    }


def findings() -> list[dict[str, str]]:
    """What is said of this kernel."""
    found: list[dict[str, str]] = json.loads(attempt('sockaccelctl', 'doctor', '--json').stdout)
    return found


def issues() -> list[str]:
    """The names of this kernel's issues."""
    return [row['name'] for row in findings() if row['severity'] == 'issue']


def can_abort() -> bool:
    """Whether this kernel lets the daemon abort a connection whose reader has missed bytes."""
    return not any('bpf_sock_destroy' in row['sentence'] for row in findings())


def journal(*matches: str) -> list[dict[str, Any]]:
    """sockaccel's lines of this boot."""
    run('journalctl', '--sync')
    printed = run('journalctl', '--boot', '--unit=sockaccel', '--output=json', '--no-pager', *matches)
    return [json.loads(line) for line in printed.splitlines()]


def redirects() -> None:
    """Return when bytes are redirected from now on. Raises AssertionError with the counters."""
    before = stats()['redirected_bytes']
    try:
        wait_until(lambda: stats()['redirected_bytes'] > before, 'bytes are redirected')
    except AssertionError as exc:
        raise AssertionError(f'{exc}: {run("sockaccelctl", "status")}') from exc


def answers() -> bool:
    return attempt('sockaccelctl', 'stats').returncode == 0


def accept_issues() -> None:
    """Put up with the kernel's issues, whatever they are."""
    DROP_IN.parent.mkdir(exist_ok=True)
    DROP_IN.write_text('[Sockaccel]\nAcceptKernelIssues=fionread splice\n')


def write_unit(name: str, text: str) -> None:
    (UNITS / name).write_text(text)
    run('systemctl', 'daemon-reload')


def python(module: str, *arguments: str) -> str:
    """What a service has to know to run one of the modules here."""
    words = ' '.join(arguments)
    return f'WorkingDirectory={ROOT}\nExecStart=/usr/bin/python3 -m tests.installed.{module} {words}\n'


@contextlib.contextmanager
def service(name: str, text: str) -> Iterator[str]:
    """A unit that can be started, stopped and removed at the end."""
    write_unit(name, text)
    try:
        yield name
    finally:
        attempt('systemctl', 'stop', name)
        attempt('systemctl', 'reset-failed', name)
        (UNITS / name).unlink()
        run('systemctl', 'daemon-reload')


@contextlib.contextmanager
def echo(name: str = 'sa-echo.service', port: int = 7711) -> Iterator[str]:
    """The echo service, running."""
    with service(name, f'[Service]\nType=notify\n{python("echo", str(port))}'):
        run('systemctl', 'start', name)
        yield name


@contextlib.contextmanager
def load(port: int = 7711, connections: int = 6) -> Iterator[None]:
    """Traffic during the block, of which no byte may be lost. Raises AssertionError at the end."""
    report = Path('/run/sa-load.json')
    report.unlink(missing_ok=True)
    text = f'[Service]\nType=notify\n{python("load", str(port), str(connections), str(report))}'
    with service('sa-load.service', text) as name:
        run('systemctl', 'start', name)
        yield
        run('systemctl', 'stop', name)
    result = json.loads(report.read_text())
    report.unlink()
    assert not result['faults'], result
    assert result['bytes'], result
