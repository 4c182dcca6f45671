# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual and the completions name everything that there is."""

import re
import shutil
import subprocess

import pytest

from sockaccel.bus import polkit
from sockaccel.bus.manager import Manager
from sockaccel.core import keys, limits, words
from sockaccel.core.led_keys import LED_KEYS
from sockaccel.dbus.interface import Argument, Property, Signal, methods_of
from tests.support.commandline import commands
from tests.support.harness import ROOT
from tests.support.memory_kernel import NAMES

MAN = ROOT / 'packaging/man'


def text_of(page: str) -> str:
    return (MAN / page).read_text().replace('\\-', '-')


def test_man_pages_are_well_formed() -> None:
    if not shutil.which('mandoc'):
        pytest.skip('mandoc is not installed')
    for page in sorted(MAN.iterdir()):
        lint = subprocess.run(
            ['mandoc', '-T', 'lint', '-W', 'warning', page], capture_output=True, text=True, check=False
        )
        assert lint.stdout == '', lint.stdout


def test_every_command_and_option_is_in_the_man_page() -> None:
    text = text_of('sockaccelctl.1')
    for command, options in commands().items():
        assert re.search(rf'^\.B[RI]? "?{command}\b', text, re.MULTILINE), command
        for option in options:
            assert option == '--help' or option in text, option


def test_reasons_in_the_man_page_exist() -> None:
    section = text_of('sockaccelctl.1').partition('.SH REASONS')[2].partition('.SH')[0]
    named = re.findall(r'^\.TP\n\.B (\w+)$', section, re.MULTILINE)
    assert named
    assert set(named) <= set(NAMES)


def test_every_key_is_in_the_man_page_and_in_the_file() -> None:
    text, shipped = text_of('sockaccel.conf.5'), (ROOT / 'packaging/sockaccel.conf').read_text()
    for key in (*keys.KEYS, *LED_KEYS):
        assert f'{key}=' in text, key
        assert f'\n#{key}=' in shipped, key


def shown(arguments: tuple[Argument, ...]) -> str:
    return f'({", ".join(f"{each.type} {each.name}" for each in arguments)})'


@pytest.mark.parametrize('name', methods_of(Manager))
def test_every_method_is_in_the_man_page_with_its_arguments(name: str) -> None:
    method = methods_of(Manager)[name]
    gives = f' -> {shown(method.gives)}' if method.gives else ''
    assert f'.BR {name} "{shown(method.takes)}{gives}"\n' in text_of('org.sockaccel1.5')


def test_every_limit_is_in_the_man_page() -> None:
    section = text_of('sockaccel.8').partition('.SH LIMITS')[2].partition('.SH')[0]
    named = re.findall(r'^\.TP\n\.B (\S+)$', section, re.MULTILINE)
    # Slot 0 is no target's, the root of the tree is a level, and a name ends with a NUL.
    fewer = dict.fromkeys(('MAX_TARGETS', 'MAX_TARGET_LEVELS', 'MAX_INTERCEPTIONS', 'MAX_PLACE_NAME'), 1)
    numbers = [value - fewer.get(name, 0) for name, value in vars(limits).items() if name.startswith('MAX_')]
    assert sorted(int(name) for name in named if name.isdigit()) == sorted(numbers)
    assert {name.rstrip('=') for name in named if not name.isdigit()} <= set(keys.KEYS)
    for counter in re.findall(r'^\.BR (\w+) \)', section, re.MULTILINE):
        assert re.sub('^connection_reason_', '', counter) in NAMES


def test_every_signal_and_property_is_in_the_man_page() -> None:
    text = text_of('org.sockaccel1.5')
    for name, member in vars(Manager).items():
        if isinstance(member, Signal):
            assert f'.BR {name} "{shown(member.gives)}"\n' in text
        elif isinstance(member, Property):
            assert f'.BR {name} " {member.type}"\n' in text


def test_every_error_is_in_the_man_page() -> None:
    section = text_of('org.sockaccel1.5').partition('.SH ERRORS')[2].partition('.SH')[0]
    assert set(re.findall(r'^\.TP\n\.B (\w+)$', section, re.MULTILINE)) == {*words.ERRORS.values(), 'Failed'}


def test_every_action_is_in_the_man_page() -> None:
    text = text_of('org.sockaccel1.5').partition('.SH ACTIONS')[2]
    for name, action in vars(polkit).items():
        if name.isupper() and not name.startswith('_'):
            assert action in text


def test_completion_in_zsh_knows_every_option() -> None:
    text = (ROOT / 'packaging/completions/_sockaccelctl').read_text()
    if shutil.which('zsh'):
        subprocess.run(['zsh', '-n', ROOT / 'packaging/completions/_sockaccelctl'], check=True)
    for command, options in commands().items():
        assert f'{command}:' in text, command
        for option in options:
            assert option in text, option
