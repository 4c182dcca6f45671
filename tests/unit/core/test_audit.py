# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of what an audit saw."""

from dataclasses import replace
from typing import Any

import pytest

from sockaccel.core import audit, rules, sentences
from sockaccel.core.audit import Report, Terms
from sockaccel.core.finding import Finding
from sockaccel.core.opensocket import OpenSocket
from sockaccel.core.policy import Policy
from sockaccel.core.watch import Traffic, Watch
from sockaccel.kernel.abi import COUNTERS
from tests.support import opensockets as seen

ISSUES = [Finding('splice', 'issue', 'x'), Finding('ktls', 'ok', 'x'), Finding('fionread', 'issue', 'x')]
TERMS = Terms(COUNTERS, ISSUES, Policy())


def report(*ends: OpenSocket, terms: Terms = TERMS, target: str = 'x.service') -> Report:
    watch = Watch()
    watch.add([])
    watch.add([seen.listener(), *ends])
    return audit.report(target, 60.0, watch, terms)


def both(number: int = 0, to_server: int = 500, to_client: int = 500, **values: Any) -> list[OpenSocket]:
    """A connection; `values` are its client's."""
    carried = {'to_server': to_server, 'to_client': to_client}
    return [seen.client(number, **carried, **values), seen.server(number, **carried)]


def test_requests_and_responses() -> None:
    made = report(*both(), *both(1))
    (exchange,) = made.exchanges
    assert (exchange.client, exchange.server, exchange.port) == ('client', 'server', seen.PORT)
    assert (exchange.connections, exchange.bytes, exchange.traffic) == (2, 2000, Traffic.REQUESTS)
    assert (made.local_bytes, made.remote_bytes) == (2000, 0)
    assert sentences.about(exchange, TERMS).startswith('Would be accelerated: each request')
    assert sentences.manner(exchange) == 'request/response, about 100 bytes and 100 bytes'


@pytest.mark.parametrize(('size', 'said'), [(100, 'gains little'), (20000, 'takes less CPU')])
def test_streams(size: int, said: str) -> None:
    stream = [replace(end, sent_segments=end.sent // size, received_segments=end.received // size)
              for end in both(to_server=400_000, to_client=0)]  # fmt: skip
    (exchange,) = report(*stream).exchanges
    assert exchange.traffic is Traffic.STREAM
    assert said in sentences.about(exchange, TERMS)
    assert sentences.manner(exchange).startswith('stream to the server')


@pytest.mark.parametrize(
    ('values', 'reason', 'who'),
    [
        ({'blocks': True}, 'blocking_end', ('client',)),
        ({'splices': True, 'blocks': True}, 'splice_end', ('client',)),
        ({'asks_fionread': True}, 'fionread_end', ('client',)),
        ({'splices': True, 'asks_fionread': True}, 'splice_end', ('client',)),
        ({'reason': seen.reason('option_end')}, 'option_end', ('client',)),
        ({'reason': seen.reason('fwmark_end'), 'blocks': True}, 'fwmark_end', ('client',)),
    ],
)
def test_what_stays_with_tcp(values: dict[str, Any], reason: str, who: tuple[str, ...]) -> None:
    made = report(*both(**values))
    (exchange,) = made.exchanges
    assert (exchange.reason, exchange.who) == (reason, who)
    assert made.command == ''
    assert not made.gains
    (sentence,) = [counter.sentence for counter in COUNTERS if counter.name == reason]
    assert sentences.about(exchange, TERMS).startswith(f'Stays with TCP: {sentence}')


def test_every_reason_has_a_sentence() -> None:
    for counter in COUNTERS:
        if counter.kind == 'connection':
            (exchange,) = report(*both(reason=seen.reason(counter.name))).exchanges
            assert counter.sentence in sentences.about(exchange, TERMS)


@pytest.mark.parametrize(('port', 'expected'), [(str(seen.PORT), 'excluded'), ('1-10', '')])
def test_rules(port: str, expected: str) -> None:
    terms = replace(TERMS, policy=Policy(exclude_ports=rules.ports(port, exclude=True)))
    (exchange,) = report(*both(), terms=terms).exchanges
    assert exchange.reason == expected


def test_a_server_that_has_not_accepted() -> None:
    (exchange,) = report(both()[0]).exchanges
    assert exchange.reason == 'unaccepted'


@pytest.mark.parametrize(
    ('policy', 'expected'), [(Policy(), 'other_namespace'), (Policy(other_namespaces=True), '')]
)
def test_another_network_namespace(policy: Policy, expected: str) -> None:
    client, server = both()
    ends = replace(client, local=False), replace(server, netns=7, local=False)
    (exchange,) = report(*ends, terms=replace(TERMS, policy=policy)).exchanges
    assert exchange.local
    assert exchange.reason == expected


def test_one_that_is_connected_to_itself() -> None:
    (exchange,) = report(both(alone=True)[0]).exchanges
    assert exchange.reason == 'self_connect'


def test_a_connection_to_another_host() -> None:
    made = report(*both(), seen.client(1, to_server=1000, local=False))
    assert (made.local_bytes, made.remote_bytes) == (1000, 1000)
    assert '50 % stayed on this host' in sentences.summary(made)[0]
    (away,) = [each for each in made.exchanges if not each.local]
    assert away.reason == 'not_local'
    assert 'on this host' in sentences.about(away, TERMS)


def test_blocking_readers_that_are_wanted_would_be_hurt() -> None:
    made = report(*both(blocks=True), terms=replace(TERMS, policy=Policy(blocking_readers=True)))
    assert made.harmed == list(made.exchanges)
    assert made.command == ''
    assert 'Leave it to TCP' in sentences.summary(made)[-1]
    assert sentences.about(made.exchanges[0], TERMS).startswith('Would be hurt: "client" does blocking reads')


def test_urgent_data_would_be_hurt() -> None:
    made = report(*both(urgent=True))
    assert 'MSG_OOB' in made.harmed[0].harm


def test_the_command_is_fit_for_a_shell() -> None:
    assert report(*both()).command == 'sockaccelctl enable --accept splice --accept fionread x.service'
    assert report(*both(), target='*').command.endswith(" '*'")
    accepted = replace(TERMS, policy=Policy(accepted_issues=frozenset({'splice', 'fionread'})))
    assert report(*both(), terms=accepted).command == 'sockaccelctl enable x.service'


def test_what_cannot_be_seen() -> None:
    assert any('splice() cannot be seen' in said for said in sentences.unseen(TERMS))
    fine = replace(TERMS, findings=[])
    assert not any('cannot be seen' in said for said in sentences.unseen(fine))
    assert any('read by splice() were watched for' in said for said in sentences.unseen(fine))


def test_nothing() -> None:
    made = report()
    assert made.connections == 0
    assert sentences.summary(made) == [
        'Nothing of "x.service" had a TCP connection in 60 seconds: audit it while its programs work.'
    ]


def test_idle_ones_carry_no_share() -> None:
    made = report(*both(to_server=0, to_client=0))
    assert made.exchanges[0].traffic is Traffic.IDLE
    assert sentences.summary(made)


def test_more_exchanges_than_a_report_has() -> None:
    ends = [end for number in range(100) for end in both(number, program=f'p{number}')]
    made = report(*ends)
    assert (len(made.exchanges), made.more) == (audit.MAXIMUM_EXCHANGES, 100 - audit.MAXIMUM_EXCHANGES)
