# SPDX-License-Identifier: GPL-2.0-or-later
"""sockaccelctl as its users meet it, and its completion."""

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockaccel.core import config
from tests.support.commandline import commands
from tests.support.harness import ROOT, PrivateBus, control, stop
from tests.support.surface import Surface

pytestmark = pytest.mark.usefixtures('surface')


@pytest.fixture(scope='module')
def surface() -> Iterator[Surface]:
    with PrivateBus(), Surface(600) as surface:
        yield surface


def test_enable_and_disable_say_what_has_come_of_it() -> None:
    answer = control('enable', '--runtime', '--accept', 'fionread', '/web.service')
    assert answer.stdout.startswith(
        'Enabled "/web.service": active (cgroup /web.service; until sockaccel is stopped'
    )
    assert control('targets', '--names').stdout == '/web.service\n'
    assert control('disable', '/web.service').stdout.startswith('Disabled "/web.service"')
    again = control('disable', '/web.service')
    assert (again.returncode, again.stdout) == (1, '')
    assert 'see what is enabled: sockaccelctl targets' in again.stderr


def test_connections() -> None:
    lines = control('connections').stdout.splitlines()
    assert len(lines) == 52
    assert lines[1].startswith('127.0.0.1:10599 psql  127.0.0.1:5432 postgres  redirect')
    assert lines[-1] == '… and 550 more, see --limit'
    assert len(control('connections', '--limit=0').stdout.splitlines()) == 601
    assert len(json.loads(control('connections', '--json', '--limit=0').stdout)) == 600
    (row,) = json.loads(control('connections', '--json', '--port=10007', '--program=psql').stdout)
    assert (row['client_port'], row['client_cgroup'], row['path']) == (10007, '/x.service', 'redirect')
    assert json.loads(control('connections', '--json', '--path=tcp').stdout) == []
    wrong = control('connections', '--address=nonsense')
    assert wrong.returncode == 1
    assert 'address "nonsense" is not an IP address' in wrong.stderr


def test_reset_leaves_the_absolute_counters() -> None:
    assert json.loads(control('stats', '--reset', '--json').stdout)['connections'] == 10
    assert json.loads(control('stats', '--since-reset', '--json').stdout)['connections'] == 0
    assert json.loads(control('stats', '--json').stdout)['connections'] == 10


def test_config_shows_every_key() -> None:
    rows = json.loads(control('config', '--json').stdout)
    assert [row['key'] for row in rows] == list(config._KEYS)
    assert 'EventsPerSecond=100' in control('config').stdout


def test_config_without_daemon_is_that_of_the_files() -> None:
    with PrivateBus():
        answer = control('config')
    assert answer.returncode == 0
    assert 'this is what it would start with' in answer.stderr
    assert 'EventsPerSecond=' in answer.stdout


def test_no_colours_in_a_pipe() -> None:
    for command in ('status', 'connections', 'targets', 'doctor', 'config', 'top'):
        assert '\x1b' not in control(command).stdout


@pytest.mark.parametrize('piped', ['connections --limit=0 | head -n 1', 'targets | :'])
def test_a_closed_pipe_is_no_error(piped: str) -> None:
    command = f'{sys.executable} -m sockaccel.ctl.cli {piped}'
    answer = subprocess.run(['sh', '-c', command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stderr == ''


def test_top_without_a_terminal() -> None:
    pictures = control('top', '--interval=0.1', '--count=2').stdout
    assert pictures.count('TARGET  ') == 2
    assert pictures.count('127.0.0.1:10599 psql') == 2


def on_terminal(*arguments: str, keys: bytes = b'', until: bytes = b'', columns: int = 80) -> str:
    """What a command shows on a terminal. keys: typed once `until` is shown."""
    ours, theirs = pty.openpty()
    subprocess.run(['stty', 'cols', str(columns), 'rows', '24'], stdin=theirs, check=True)
    process = subprocess.Popen(
        [sys.executable, '-m', 'sockaccel.ctl.cli', *arguments],
        cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, 'TERM': 'xterm'},
    )  # fmt: skip
    os.close(theirs)
    shown = b''
    # At its end a terminal answers EIO.
    with contextlib.suppress(OSError):
        while select.select([ours], [], [], 20)[0] and (chunk := os.read(ours, 65536)):
            shown += chunk
            if keys and until in shown:
                os.write(ours, keys)
                keys = b''
    os.close(ours)
    assert stop(process) == 0
    return shown.decode()


def test_top_on_a_terminal() -> None:
    """Pictures of 80 columns and 24 lines in place, until q; then the terminal is as it was."""
    shown = on_terminal('top', '--interval=0.2', keys=b'q', until=b'q quits')
    assert shown.startswith('\x1b[?1049h')
    assert shown.endswith('\x1b[?1049l')
    pictures = shown.split('\x1b[H')[1:]
    assert pictures
    for picture in pictures:
        lines = re.sub(r'\x1b\[[?0-9;]*[a-zA-Z]', '', picture).split('\r\n')
        assert len(lines) <= 24
        assert max(map(len, lines)) <= 80


@pytest.mark.parametrize('command', ['status', 'connections', 'targets'])
def test_colours_and_width_on_a_terminal(command: str) -> None:
    shown = on_terminal(command)
    assert command == 'targets' or '\x1b[' in shown
    plain = re.sub(r'\x1b\[[0-9;]*m', '', shown)
    assert max(map(len, plain.splitlines())) <= 80


def test_help_names_the_exit_status() -> None:
    shown = control('--help').stdout
    assert 'exit status:' in shown
    for command in commands():
        assert re.search(rf'^    {command}\b', shown, re.MULTILINE)
        assert control(command, '--help').returncode == 0


def test_not_permitted_has_a_status_of_its_own() -> None:
    script = (
        'import os, sys\n'
        'from sockaccel.ctl import cli\n'
        'os.setresuid(65534, 65534, 65534)\n'
        'sys.exit(cli.main(["enable", "/x"]))\n'
    )
    answer = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 4
    assert 'needs root' in answer.stderr
    assert 'try: sudo sockaccelctl enable' in answer.stderr


def completed(directory: Path, line: str) -> list[str]:
    """What bash offers at the end of a line."""
    words = line.split(' ')
    script = (
        f'. {ROOT}/packaging/completions/sockaccelctl; COMP_WORDS=({" ".join(repr(word) for word in words)}); '
        f'COMP_CWORD={len(words) - 1}; _sockaccelctl; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    environment = {**os.environ, 'PATH': f'{directory}:{os.environ["PATH"]}'}
    answer = subprocess.run(['bash', '-c', script], env=environment, capture_output=True, text=True, check=True)
    assert answer.stderr == ''
    return answer.stdout.split()


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A sockaccelctl, and a systemctl that knows two units."""
    for name, line in {
        'sockaccelctl': f'cd {ROOT} && exec {sys.executable} -m sockaccel.ctl.cli "$@"',
        'systemctl': r"printf 'redis.service loaded\nsystem-getty.slice loaded\ndev-disk-by\\x2did.swap loaded\n'",
    }.items():
        (tmp_path / name).write_text(f'#!/bin/sh\n{line}\n')
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_completion_in_bash(programs: Path) -> None:
    assert set(completed(programs, 'sockaccelctl ')) == {*commands(), '--help', '--version'}
    for command, options in commands().items():
        assert set(completed(programs, f'sockaccelctl {command} --')) == set(options)
    assert completed(programs, 'sockaccelctl enable re') == ['redis.service']
    assert completed(programs, 'sockaccelctl enable --accept ') == ['fionread']
    assert control('enable', '/web.service').returncode == 0
    assert completed(programs, 'sockaccelctl disable ') == ['/web.service']
    assert completed(programs, 'sockaccelctl stats --target /w') == ['/web.service']
    assert control('disable', '/web.service').returncode == 0
