# SPDX-License-Identifier: GPL-2.0-or-later
"""sockaccelctl as its users meet it, and its completion."""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockaccel.core import keys
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


def test_why() -> None:
    said = control('why', ':10007').stdout
    assert said.startswith('127.0.0.1:10007 psql -> 127.0.0.1:5432 postgres: since ')
    assert 'Covered by the target x.service.' in said
    assert 'is redirected' in said
    assert control('why', '127.0.0.1:10007').stdout == said
    (all_alike,) = json.loads(control('why', '--json', '101').stdout)
    assert all_alike['client_program'] == 'psql'
    (all_alike,) = json.loads(control('why', '--json', 'postgres').stdout)
    assert (all_alike['connections'], all_alike['target']) == (600, 'x.service')
    nothing = control('why', 'no-such-program')
    assert (nothing.returncode, nothing.stderr) == (1, '')
    wrong = control('why', '::1:5432')
    assert wrong.returncode == 1
    assert 'an IPv6 address stands in brackets' in wrong.stderr


def test_reset_leaves_the_absolute_counters() -> None:
    assert json.loads(control('stats', '--reset', '--json').stdout)['connections'] == 10
    assert json.loads(control('stats', '--since-reset', '--json').stdout)['connections'] == 0
    assert json.loads(control('stats', '--json').stdout)['connections'] == 10


def test_zeros_are_shown_to_who_asks_for_them() -> None:
    control('stats', '--reset')
    assert control('stats', '--since-reset').stdout == ''
    assert 'Nothing was counted; --all shows the zeros.' in on_terminal('stats', '--since-reset')
    zeros = [line.split() for line in control('stats', '--since-reset', '--all').stdout.splitlines()]
    assert ['redirected_bytes', '0'] in zeros
    assert {value for _name, value in zeros} == {'0'}
    assert ['redirected_bytes', '10'] in [line.split() for line in control('stats').stdout.splitlines()]


def test_config_shows_every_key() -> None:
    rows = json.loads(control('config', '--json').stdout)
    assert [row['key'] for row in rows] == list(keys.KEYS)
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


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A line of sh, in which $CTL is sockaccelctl."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(('LC_', 'LANG', 'PYTHON'))}
    made = {**kept, 'CTL': f'{sys.executable} -m sockaccel.ctl.cli', **environment}
    return subprocess.run(['sh', '-c', line], cwd=ROOT, env=made, capture_output=True, check=False)


def latin_1(directory: Path) -> dict[str, str]:
    """An environment that says so, by a locale where the machine can make one."""
    made = directory / 'en_US.ISO-8859-1'
    if shutil.which('localedef') and Path('/usr/share/i18n/charmaps').exists():
        subprocess.run(['localedef', '--inputfile=en_US', '--charmap=ISO-8859-1', made], check=True)
        return {'LOCPATH': str(directory), 'LC_ALL': made.name}
    return {'PYTHONIOENCODING': 'latin-1'}


@pytest.mark.parametrize('where', ['latin-1', 'C', 'POSIX', 'ASCII'])
def test_any_locale_will_do(tmp_path: Path, where: str) -> None:
    environment = {
        'latin-1': latin_1(tmp_path),
        # With and without Python's own way out of such a locale (PEP 538, PEP 540).
        'C': {'LC_ALL': 'C'},
        'POSIX': {'LANG': 'POSIX'},
        'ASCII': {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'},
    }[where]
    answer = shell('$CTL connections && $CTL status && $CTL targets && $CTL doctor; $CTL --help', **environment)
    assert (answer.returncode, answer.stderr) == (0, b'')
    more = '… and 550 more' if where in ('C', 'POSIX') else '... and 550 more'
    assert f'\n{more}, see --limit'.encode() in answer.stdout
    wrong = shell('$CTL disable "/söcket"', **environment)
    assert wrong.returncode in (1, 2)
    assert b'Traceback' not in wrong.stderr
    assert wrong.stderr


@pytest.mark.parametrize('command', ['status', 'targets', 'connections --json', 'top', '--help', '--version'])
def test_a_full_disk_is_said(command: str) -> None:
    answer = shell(f'$CTL {command} >/dev/full')
    said = b'sockaccelctl: cannot write all that there is to say (No space left on device)\n'
    assert (answer.returncode, answer.stderr) == (1, said)


@pytest.mark.parametrize('command', ['status', 'targets', 'connections --json', 'top', '--help', '--version'])
def test_nobody_reads_a_closed_stdout(command: str) -> None:
    answer = shell(f'$CTL {command} >&-')
    assert (answer.returncode, answer.stderr) == (0, b'')


def test_an_error_does_not_go_to_stdout_where_stderr_is_closed() -> None:
    answer = shell('$CTL disable /nobody 2>&-')
    assert (answer.returncode, answer.stdout) == (1, b'')
    answer = shell('$CTL nonsense 2>&- <&-')
    assert (answer.returncode, answer.stdout) == (2, b'')


def test_the_root_slice_is_no_option() -> None:
    answer = control('disable', '-.slice')
    assert (answer.returncode, answer.stdout) == (1, '')
    assert 'target "-.slice" is not enabled' in answer.stderr
    assert 'target "-.slice" is not enabled' in control('stats', '--target', '-.slice').stderr
    assert control('disable', '-x').returncode == 2


def test_without_a_bus_there_is_nothing_to_enable() -> None:
    answer = shell('$CTL status', DBUS_SYSTEM_BUS_ADDRESS='unix:path=/nonexistent/bus')
    assert answer.returncode == 3
    assert b'cannot connect to the system bus' in answer.stderr
    assert b'systemctl enable' not in answer.stderr
    with PrivateBus():
        answer = shell('$CTL status')
    assert answer.returncode == 3
    assert b'start it with: systemctl enable --now sockaccel' in answer.stderr


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
    # The terminal has 24 lines, and what needs attention takes most of them.
    assert command != 'status' or '… and 599 more connections' in plain


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
    assert completed(programs, 'sockaccelctl set ') == ['/web.service', *(f'{key}=' for key in keys.POLICY_KEYS)]
    assert completed(programs, 'sockaccelctl set /web.service Bl') == ['BlockingReaders=']
    assert control('disable', '/web.service').returncode == 0
