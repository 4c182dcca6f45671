# SPDX-License-Identifier: GPL-2.0-or-later
"""Why something is accelerated or not, in sentences."""

import os
import socket
from typing import Any

import pytest

from sockaccel.core.advice import ADVICE
from sockaccel.core.listing import Filter
from sockaccel.core.rows import Row
from sockaccel.ctl import processes, why
from sockaccel.ctl.subject import Subject
from sockaccel.errors import InvalidArgument
from sockaccel.kernel.abi import COUNTERS

NAMED = {each.name: {'sentence': each.sentence, 'advice': ADVICE.get(each.name, '')} for each in COUNTERS}


BOTH: Row = {'path': 'tcp'}


def row(**more: Any) -> Row:
    both: Row = {'target': '/x', 'path': 'redirect', 'state': 'joined', 'age_ns': 61_000_000_000}
    both |= {'origin_address': '', 'origin_port': 0}
    for name, port in (('client', 40000), ('server', 5432)):
        both |= {
            f'{name}_address': '127.0.0.1', f'{name}_port': port, f'{name}_program': name, f'{name}_reason': '',
            f'{name}_redirected_bytes': 1024, f'{name}_tcp_bytes': 0,
        }  # fmt: skip
    return both | more


def target(name: str, cgroup: str, **more: Any) -> Row:
    return {'name': name, 'state': 'active', 'detail': f'cgroup {cgroup}', 'cgroup': cgroup, 'policy': [], **more}


@pytest.mark.parametrize(
    ('text', 'wanted'),
    [
        ('123', Filter(pid=123)),
        (':5432', Filter(port=5432)),
        ('127.0.0.1:5432', Filter(address='127.0.0.1', port=5432)),
        ('[::1]:5432', Filter(address='::1', port=5432)),
        ('psql', Filter(program='psql')),
        ('a-program-with-a-long-name', Filter(program='a-program-with-')),
        ('x.service', Filter(target='x.service')),
        ('/x', Filter(target='/x')),
        ('*', Filter(target='*')),
    ],
)
def test_what_it_is_about(text: str, wanted: Filter) -> None:
    assert Subject.parse(text).wanted == wanted


@pytest.mark.parametrize(
    'text', ['', '0', ':0', ':65536', '::1', 'x:5432', '::1:5432', ':', '9' * 30, ':' + '9' * 30]
)
def test_what_it_cannot_be_about(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Subject.parse(text)


def answer(*rows: Row, targets: list[Row] | None = None) -> str:
    answers = [why._of_alike(alike, NAMED, targets or []) for alike in why._groups(rows)]
    return '\n'.join('\n'.join([each.title, *each.sentences]) for each in answers)


def test_an_accelerated_connection() -> None:
    said = answer(row())
    assert said.splitlines() == [
        '127.0.0.1:40000 client -> 127.0.0.1:5432 server: since 1m',
        'Covered by the target /x.',
        'Accelerated: both ends have joined, and what they send is redirected.',
        'So far 2.0K redirected and 0B by TCP (100.0 % redirected).',
    ]


def test_connections_with_the_same_answer_are_one() -> None:
    said = answer(*(row(client_port=port, age_ns=port * 10**9) for port in range(3)), row(server_port=1))
    assert said.splitlines()[0] == 'client -> 127.0.0.1:5432 server: 3 connections, the oldest since 2s'
    assert said.count('Covered by') == 2
    assert '6.0K redirected' in said


@pytest.mark.parametrize(
    ('more', 'first', 'reasons'),
    [
        ({'path': 'mixed', 'client_reason': 'order'}, 'the last message to the server went by TCP', ['order']),
        ({'path': 'mixed', 'server_reason': 'order'}, 'the last message to the client went by TCP', ['order']),
        (BOTH | {'client_reason': 'order', 'server_reason': 'backlog'}, 'both directions', ['order', 'backlog']),
        (BOTH | {'state': 'left', 'client_reason': 'mptcp'}, 'Not accelerated.', ['mptcp']),
        (BOTH | {'state': 'candidate', 'client_reason': 'paused'}, 'at the moment.', ['paused']),
        (BOTH | {'state': 'candidate'}, 'JoinDelayMs=', []),
        (BOTH | {'state': 'connecting'}, 'being established', []),
    ],
)  # fmt: skip
def test_each_reason_comes_once_with_what_to_do(more: Row, first: str, reasons: list[str]) -> None:
    said = answer(row(**more))
    assert first in said
    assert [line.split()[1].rstrip(':') for line in said.splitlines() if line.startswith('Reason')] == reasons
    for reason in reasons:
        assert NAMED[reason]['sentence'] in said
        assert ADVICE[reason] in said


def test_the_configuration_that_excludes_is_named() -> None:
    policy = [
        {'key': 'ExcludePorts', 'value': '5432', 'source': '/etc/x.conf:3'},
        {'key': 'ExcludeAddresses', 'value': '', 'source': ''},
        {'key': 'BlockingReaders', 'value': 'yes', 'source': '/etc/x.conf:4'},
    ]
    excluded = row(state='left', path='tcp', client_reason='excluded', server_reason='excluded')
    said = answer(excluded, targets=[target('/y', '/y'), target('/x', '/x', policy=policy)])
    assert 'The configuration says ExcludePorts=5432 (/etc/x.conf:3).' in said
    assert 'BlockingReaders' not in said
    assert 'ExcludeAddresses' not in said
    assert 'ExcludePorts' not in answer(row(), targets=[target('/x', '/x', policy=policy)])


def test_a_process_without_connections() -> None:
    me = processes.process(os.getpid())
    assert me
    subject = Subject.parse(str(os.getpid()))
    (found,) = why._of_nothing(subject, [], {})
    assert found.is_known
    assert f'process {os.getpid()}' in found.title
    assert f'sudo sockaccelctl enable {why.target_for(me.cgroup)}' in found.sentences[-1]
    (found,) = why._of_nothing(subject, [target('x.service', me.cgroup)], {})
    assert found.sentences[0].startswith('Covered by the target x.service, but it has no connection')


def test_a_program_that_is_left_to_tcp_is_not_to_be_enabled() -> None:
    me = processes.process(os.getpid())
    assert me
    (found,) = why._of_nothing(Subject.parse(str(os.getpid())), [], {me.program: 'it reads by splice()'})
    assert 'sudo' not in found.sentences[-1]
    assert 'either: it reads by splice() (sockaccelctl programs)' in found.sentences[-1]


def test_nobody_is_there() -> None:
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        port = sock.getsockname()[1]
        (found,) = why._of_nothing(Subject.parse(f':{port}'), [], {})
        assert not found.is_known
        assert 'Nobody listens there' in found.sentences[0]
        sock.listen()
        (found,) = why._of_nothing(Subject.parse(f':{port}'), [], {})
        assert found.is_known
        assert f'process {os.getpid()}' in found.title
    assert not why._of_nothing(Subject.parse('no-such-program'), [], {})[0].is_known


@pytest.mark.parametrize(
    ('targets', 'said'),
    [
        ([], 'sudo sockaccelctl enable x.service'),
        ([target('x.service', '/x')], 'has no connection'),
        (
            [target('x.service', '', state='waiting', detail='it is not there')],
            'waits for its cgroup: it is not there',
        ),
        ([target('x.service', '', state='refused', detail='gone')], 'cannot be enabled any more: gone'),
    ],
)
def test_a_target_without_connections(targets: list[Row], said: str) -> None:
    (found,) = why._of_nothing(Subject.parse('x.service'), targets, {})
    assert said in found.sentences[0]


@pytest.mark.parametrize(
    ('cgroup', 'name'),
    [
        ('/system.slice/postgresql@15-main.service', 'postgresql@15-main.service'),
        ('/system.slice/system-postgresql.slice/postgresql@15-main.service', 'postgresql@15-main.service'),
        ('/system.slice/x.service/payload', 'x.service'),
        ('/user.slice/user-1000.slice/user@1000.service/app.slice/x.service',
         '/user.slice/user-1000.slice/user@1000.service/app.slice/x.service'),
        ('/user.slice/user-1000.slice/session-2.scope', '/user.slice/user-1000.slice/session-2.scope'),
        ('/docker/0123', '/docker/0123'),
        ('', '/'),
    ],
)  # fmt: skip
def test_what_one_would_enable(cgroup: str, name: str) -> None:
    assert why.target_for(cgroup) == name


def test_where_led_connections_wanted_to_go() -> None:
    rows = [row(origin_address=f'10.0.0.{last}', origin_port=80) for last in range(1, 6)]
    said = answer(*rows)
    assert 'Led to this proxy: the client wanted 10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80 and 2 more' in said
    assert 'Led to' not in answer(row())
