# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual and the completions name everything that there is."""

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest

from sockaccel.core import config
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
    for key in config._KEYS:
        assert f'{key}=' in text, key
        assert f'\n#{key}=' in shipped, key


def test_every_member_is_in_the_man_page() -> None:
    text = text_of('org.sockaccel1.5')
    for element in ET.parse(ROOT / 'packaging/dbus/org.sockaccel1.Manager.xml').getroot().iter():
        if element.tag in ('method', 'signal', 'property'):
            assert f'.BR {element.get("name")} "' in text, element.get('name')


def test_completion_in_zsh_knows_every_option() -> None:
    text = (ROOT / 'packaging/completions/_sockaccelctl').read_text()
    if shutil.which('zsh'):
        subprocess.run(['zsh', '-n', ROOT / 'packaging/completions/_sockaccelctl'], check=True)
    for command, options in commands().items():
        assert f'{command}:' in text, command
        for option in options:
            assert option in text, option
