# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: what it takes, and what sockaccelctl is made of."""

import subprocess
import sys

import pytest

from sockaccel.core.keys import POLICY_KEYS
from sockaccel.ctl.arguments import parser
from tests.support.harness import ROOT


def test_every_command_has_a_function_and_a_sentence() -> None:
    (commands,) = [action for action in parser()._actions if action.dest == 'command']
    assert isinstance(commands.choices, dict)
    for name, command in commands.choices.items():
        assert callable(command.get_default('run')), name
        assert command.description, name


def test_options_have_their_types() -> None:
    options = parser().parse_args(['connections', '--port', '5432', '--path=tcp', '--limit=0'])
    assert (options.port, options.path, options.limit, options.target) == (5432, 'tcp', 0, None)
    options = parser().parse_args(['enable', '--accept', 'a', '--accept=b', 'x.service'])
    assert (options.target, options.accepted_issues, options.runtime) == ('x.service', ['a', 'b'], False)


@pytest.mark.parametrize(('text', 'seconds'), [('90', 90), ('90s', 90), ('5m', 300), ('1h', 3600)])
def test_times(text: str, seconds: int) -> None:
    assert parser().parse_args(['audit', 'x.service', '--for', text]).seconds == seconds
    assert parser().parse_args(['enable', 'x.service', '--probation', text]).probation == seconds


def test_flags_of_a_policy() -> None:
    options = parser().parse_args(
        ['enable', 'x', '--blocking-readers', '--include-port=80', '--include-port', '1-2', '--join-delay-ms=5']
    )
    assert (options.blocking_readers, options.include_ports, options.join_delay_ms) == ('yes', ['80', '1-2'], '5')
    assert parser().parse_args(['enable', 'x']).blocking_readers is None
    options = parser().parse_args(['set', 'x', 'IncludePorts=80 443', 'ExcludeUsers='])
    assert (options.target, options.settings) == ('x', [('IncludePorts', '80 443'), ('ExcludeUsers', '')])


def test_every_key_of_a_policy_has_a_flag() -> None:
    options = parser().parse_args(['enable', 'x'])
    assert {key.field for key in POLICY_KEYS.values()} <= vars(options).keys()


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['connections', '--port=0'], 'is not a number from 1 to 65535'),
        (['connections', '--port=x'], 'is not a number'),
        (['connections', '--path=nowhere'], 'invalid choice'),
        (['top', '--interval=0.01'], 'is not a number of seconds'),
        (['trace', '--kind=connection'], 'invalid choice'),
        (['set', '/x'], 'required'),
        (['set', '/x', 'BlockingReaders'], '"BlockingReaders" is not KEY=VALUE'),
        (['enable', '/x\udcff'], 'is not UTF-8 text'),
        (['audit', 'x.service', '--for=0s'], 'is not a time from 1s to 1h'),
        (['audit', 'x.service', '--for=61m'], 'is not a time'),
        (['audit', 'x.service', '--for='], 'is not a time'),
        (['enable', 'x.service', '--probation=1d'], 'is not a time'),
        (['nonsense'], 'invalid choice'),
        ([], 'required'),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_nothing_of_the_daemon_is_loaded() -> None:
    script = 'import sys, sockaccel.ctl.cli; print(*sys.modules)'
    answer = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, check=True)
    rooms = {name.split('.')[1] for name in answer.stdout.split() if name.startswith('sockaccel.')}
    assert rooms == {'core', 'ctl', 'dbus', 'errors', 'unneeded'}
