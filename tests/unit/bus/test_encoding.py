# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows have the keys and types that the interface's XML describes."""

import re
import xml.etree.ElementTree as ET

import pytest

from sockaccel.bus import encoding
from sockaccel.bus.encoding import Row
from sockaccel.core.connection import ConnectionState, Counter, Event, EventKind, Flow
from sockaccel.core.ends import End, Pair
from sockaccel.core.finding import Finding
from sockaccel.core.keys import POLICY_KEYS
from sockaccel.core.knowledge import WHY, Knowledge
from sockaccel.core.programs import Row as Program
from sockaccel.core.rows import Wording
from sockaccel.core.rows import row as row_of
from sockaccel.core.target import State, TargetStatus
from sockaccel.dbus.message import Variant, plain
from sockaccel.errors import InvalidArgument
from tests.support.harness import ROOT

XML = ROOT / 'packaging/dbus/org.sockaccel1.Manager.xml'


def end(*, active: bool = True) -> Event:
    local, remote = (40000, 5432) if active else (5432, 40000)
    return Event(
        flow=Flow(7, '127.0.0.1', '127.0.0.2', local, remote), time_ns=1, cookie=2, peer_cookie=3, cgroup=4,
        redirected_bytes=5, redirected_messages=6, tcp_bytes=7, tcp_messages=8, kind=EventKind.JOINED, reason=1,
        slot=1, generation=1, active=active, pid=9, marked=0, state=ConnectionState.JOINED, program='psql',
    )  # fmt: skip


class Names:
    """Implements sockaccel.core.rows.Names."""

    reasons = ('', 'order')

    def target(self, _slot: int) -> str:
        return 'x.service'

    def cgroup(self, number: int) -> str:
        return '/x.service' if number == 4 else ''

    def origin(self, cookie: int) -> tuple[str, int]:
        return ('10.0.0.9', 80) if cookie == 2 else ('', 0)


def pair() -> Pair:
    local, remote = (bytes(10) + b'\xff\xff' + bytes([127, 0, 0, last]) for last in (1, 2))
    client = End(
        netns=7, local=local, remote=remote, local_port=40000, remote_port=5432, sent=1, received=2,
        time_ns=1, cookie=2, cgroup=4, redirected_bytes=5, redirected_messages=6, tcp_bytes=7,
        tcp_messages=8, reason=0, slot=1, active=1, pid=9, marked=0,
        state=ConnectionState.JOINED, flags=1, program=b'psql' + bytes(12),
    )  # fmt: skip
    server = client._replace(
        local=remote,
        remote=local,
        local_port=5432,
        remote_port=40000,
        reason=1,
        active=0,
        cgroup=5,
        cookie=3,
        sent=2,
        received=1,
    )
    return client, server


def connection(pair: Pair) -> Row:
    return encoding.connection(row_of(pair, Wording(Names()), 11))


def documented(member: str) -> set[str]:
    """The keys that a comment of the XML names, after "Keys"."""
    text = re.sub(r'\s+', ' ', XML.read_text())
    (comment,) = re.findall(f'<!-- {member}: (.*?)-->', text)
    keys = re.sub(r'"[^"]*"', '', comment.partition(' Keys')[2])
    found = set()
    for names in re.findall(r'((?:[a-z_]+(?:, | and ))*[a-z_]+) \((?:s|b|as|u|q|t|aa\{sv\})\)', keys):
        found.update(re.split(', | and ', names))
    return found


def test_the_row_of_a_target() -> None:
    policy = (('BlockingReaders', 'yes', 'set'),)
    row = encoding.target(TargetStatus('/x', State.DRAINING, '2 sockets', '/x', True, 'f:3', policy, draining=2))
    assert plain(row) == {
        'name': '/x', 'state': 'draining', 'detail': '2 sockets', 'cgroup': '/x', 'runtime': True, 'file': 'f:3',
        'policy': [{'key': 'BlockingReaders', 'value': 'yes', 'source': 'set'}], 'draining': 2,
    }  # fmt: skip
    assert row.keys() == documented('ListTargets')
    gone = encoding.no_target('/x')
    assert {key: value.signature for key, value in gone.items()} == {
        key: value.signature for key, value in row.items()
    }
    assert gone['state'].value == 'disabled'


def test_the_row_of_a_connection() -> None:
    row = connection(pair())
    of_both = {
        'target': 'x.service', 'path': 'mixed', 'state': 'joined', 'age_ns': 10, 'netns_cookie': 7,
        'adopted': True,
        'waiting_for_heartbeat': False, 'origin_address': '10.0.0.9', 'origin_port': 80,
    }  # fmt: skip
    assert {key: row[key].value for key in of_both} == of_both
    assert (row['client_address'].value, row['client_port'].value) == ('127.0.0.1', 40000)
    assert (row['server_reason'].value, row['client_cgroup'].value) == ('order', '/x.service')
    assert (row['client_port'].signature, row['client_pid'].signature, row['age_ns'].signature) == ('q', 'u', 't')
    names = documented('ListConnections') - of_both.keys() | {'state', 'netns_cookie'}
    assert row.keys() == of_both.keys() | {f'{end}_{name}' for end in ('client', 'server') for name in names}


@pytest.mark.parametrize('known', ['client', 'server'])
def test_an_end_that_is_not_known_has_the_same_keys(known: str) -> None:
    client, server = pair()
    both = connection((client, server))
    row = connection((client, None) if known == 'client' else (None, server))
    other = 'server' if known == 'client' else 'client'
    assert row.keys() == both.keys()
    assert (row['client_port'].value, row['server_port'].value) == (40000, 5432)
    assert (row[f'{known}_state'].value, row[f'{other}_state'].value) == ('joined', '')
    assert row[f'{other}_redirected_bytes'].value == 0


def test_the_row_of_an_event() -> None:
    row = encoding.event(end(), 'x.service', Counter('order', 'message', 'a sentence'), programs=True)
    assert (row['kind'], row['reason'], row['cgroup_id'], row['program']) == ('joined', 'order', 4, 'psql')
    assert encoding.event(end(), '', None, programs=True)['reason'] == ''
    assert row.keys() == documented('Subscribe')


def test_an_event_for_who_may_not_know_whose_it_is() -> None:
    told, all_told = (encoding.event(end(), 'x', None, programs=programs) for programs in (False, True))
    assert {name: told[name] for name in told if told[name] != all_told[name]} == {
        'program': '', 'pid': 0, 'cgroup_id': 0,
    }  # fmt: skip


def test_other_rows() -> None:
    assert plain(encoding.finding(Finding('a', 'note', 'b'))) == {'name': 'a', 'severity': 'note', 'sentence': 'b'}
    assert encoding.finding(Finding('a', 'note', 'b')).keys() == documented('ListFindings')
    assert encoding.counter(Counter('a', 'total', 'b')).keys() == documented('DescribeCounters')
    setting = encoding.setting('S', 'A', 'b', 'c:1')
    assert plain(setting) == {'section': 'S', 'key': 'A', 'value': 'b', 'source': 'c:1'}
    assert setting.keys() == documented('ListConfiguration')
    listed = Program('nginx', Knowledge.ASKS_FIONREAD, 'x:1', 0, True)
    assert plain(encoding.program(listed)) == {
        'name': 'nginx', 'knows': ['asks_fionread'], 'why': WHY[Knowledge.ASKS_FIONREAD], 'source': 'listed',
        'where': 'x:1', 'since': 0, 'in_force': True,
    }  # fmt: skip
    seen = Program('/bin/x', Knowledge.SPLICES | Knowledge.BLOCKS, '', 7, False)
    assert encoding.program(seen).keys() == documented('ListPrograms')
    assert plain(encoding.program(seen))['source'] == 'seen'
    assert plain(encoding.program(seen))['knows'] == ['splices', 'blocks']


def test_options() -> None:
    given = {'runtime': Variant('b', True)}
    assert encoding.options(given, wait='b', runtime='b') == {'runtime': True}
    with pytest.raises(InvalidArgument, match='option "nonsense" is unknown, there is "wait", "runtime"'):
        encoding.options({'nonsense': Variant('s', '')}, wait='b', runtime='b')
    with pytest.raises(InvalidArgument, match='option "runtime" is of type "s", not "b"'):
        encoding.options({'runtime': Variant('s', 'yes')}, runtime='b')


def test_a_policy_has_typed_values_or_texts() -> None:
    typed = {
        'BlockingReaders': Variant('b', True), 'JoinDelayMs': Variant('u', 5),
        'IncludePorts': Variant('as', ['80', '8000-8999']), 'ExcludePorts': Variant('as', []),
        'IncludeUsers': Variant('s', 'root 5'), 'ExcludeUsers': Variant('s', ''),
    }  # fmt: skip
    texts = {
        'BlockingReaders': 'yes', 'JoinDelayMs': '5', 'IncludePorts': '80 8000-8999', 'ExcludePorts': '',
        'IncludeUsers': 'root 5', 'ExcludeUsers': '',
    }  # fmt: skip
    assert encoding.settings(typed) == texts
    assert encoding.enable_options({'wait': Variant('b', True), **typed}) == {'settings': texts, 'wait': True}
    with pytest.raises(InvalidArgument, match='"BlockingReaders" is of type "u", not "b"'):
        encoding.settings({'BlockingReaders': Variant('u', 1)})
    with pytest.raises(InvalidArgument, match='"JoinDelayMs" is of type "as", not "u"'):
        encoding.enable_options({'JoinDelayMs': Variant('as', ['5'])})
    with pytest.raises(InvalidArgument, match='"nonsense" is unknown, there is "runtime", "wait", "probation"'):
        encoding.enable_options({'nonsense': Variant('b', True)})


def test_every_type_of_a_policy_is_documented() -> None:
    text = re.sub(r'\s+', ' ', XML.read_text())
    (comment,) = re.findall('<!-- SetPolicy: (.*?)-->', text)
    for name, key in POLICY_KEYS.items():
        assert key.type == 'as' or f'"{name}" ({key.type})' in comment, name


def test_the_xml_is_well_formed() -> None:
    ET.parse(XML)


def test_where_a_led_connection_wanted_to_go() -> None:
    client, server = pair()
    assert client
    row = connection((client, server))
    assert (row['origin_address'], row['origin_port']) == (Variant('s', '10.0.0.9'), Variant('q', 80))
    for other in ((None, server), (client._replace(cookie=5), server)):
        row = connection(other)
        assert (row['origin_address'], row['origin_port']) == (Variant('s', ''), Variant('q', 0))
