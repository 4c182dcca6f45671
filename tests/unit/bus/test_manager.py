# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface is the documented one, and nobody can call what names no action by mistake."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from sockaccel.bus import polkit
from sockaccel.bus.logcontrol import LogControl
from sockaccel.bus.manager import Manager
from sockaccel.dbus.interface import Interface, methods_of
from sockaccel.dbus.introspection import describe
from tests.support.harness import ROOT

XML = ROOT / 'packaging/dbus/org.sockaccel1.Manager.xml'
NOTHING: Any = None


class Log:
    IDENTIFIER = 'example'

    def __init__(self) -> None:
        self.now = {'level': 'info', 'target': 'journal'}

    def level(self) -> str:
        return self.now['level']

    def set_level(self, name: str) -> None:
        self.now['level'] = name

    def target(self) -> str:
        return self.now['target']

    def set_target(self, name: str) -> None:
        self.now['target'] = name


def manager() -> Manager:
    return Manager(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, 1)


def members(interface: ET.Element) -> dict[tuple[str, str | None], list[dict[str, str]]]:
    return {
        (member.tag, member.get('name')): [
            {key: value for key, value in member.items() if key != 'name'},
            *(dict(each.items()) for each in member),
        ]
        for member in interface
    }


def test_the_documented_interface_is_the_real_one() -> None:
    (documented,) = ET.parse(XML).getroot().iter('interface')
    assert members(documented) == members(describe(manager()))


def test_every_member_is_documented() -> None:
    text = XML.read_text()
    for element in ET.fromstring(text).iter():
        if element.tag in ('method', 'signal', 'property'):
            assert f'<!-- {element.get("name")}: ' in text


def test_what_is_for_good() -> None:
    declared = {member: arguments for (_tag, member), arguments in members(describe(manager())).items()}
    target = {'name': 'target', 'type': 's', 'direction': 'in'}
    assert declared['Enable'] == declared['Disable'] == [{}, target]
    assert declared['Stats'] == [{}, {'name': 'counters', 'type': 'a{st}', 'direction': 'out'}]


def test_the_xml_names_the_actions() -> None:
    text = re.sub(r'\s+', ' ', XML.read_text())
    for name, method in methods_of(Manager).items():
        (comment,) = re.findall(f'<!-- {name}: (.*?)-->', text)
        if method.action and not name.endswith('WithOptions'):
            assert f'polkit must allow {method.action}.' in comment
        else:
            assert 'polkit' not in comment


@pytest.mark.parametrize('interface', [manager(), LogControl(Log())])
def test_every_action_is_defined(interface: Interface) -> None:
    policy = (ROOT / 'packaging/polkit/org.sockaccel1.policy').read_text()
    actions = [method.action for method in interface.methods.values() if method.action]
    actions += [prop.action for prop in interface.properties.values() if prop.action]
    assert actions
    for action in actions:
        assert f'<action id="{action}">' in policy
    assert all(prop.action for prop in interface.properties.values() if prop.set)


def test_every_action_is_needed() -> None:
    policy = (ROOT / 'packaging/polkit/org.sockaccel1.policy').read_text()
    declared = {value for name, value in vars(polkit).items() if name.isupper() and not name.startswith('_')}
    assert set(re.findall('<action id="(.*?)">', policy)) == declared


def test_log_control() -> None:
    log = Log()
    interface = LogControl(log)
    for name in ('LogLevel', 'LogTarget'):
        which = interface.properties[name]
        assert which.set
        which.set(interface, 'debug')
        assert interface.value(which).value == 'debug'
        assert which.action == polkit.SET_LOG_LEVEL
    assert interface.value(interface.properties['SyslogIdentifier']).value == 'example'
