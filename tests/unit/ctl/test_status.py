# SPDX-License-Identifier: GPL-2.0-or-later
"""The first lines of "status" answer what an administrator wants to know first."""

import argparse
import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sockaccel.core.ends import Pair
from sockaccel.core.listing import Filter
from sockaccel.ctl import listing, show, status
from sockaccel.ctl.client import Client
from sockaccel.kernel.abi import COUNTERS
from sockaccel.kernel.ends import Ends
from tests.support.memory_kernel import packed_ends

ROWS = [
    {'name': counter.name, 'kind': counter.kind, 'sentence': f'{counter.name} is so', 'advice': 'Do it.'}
    for counter in COUNTERS
]
PREFIX = {'total': '', 'connection': 'connection_reason_', 'message': 'message_reason_'}
ZEROS = {PREFIX[counter.kind] + counter.name: 0 for counter in COUNTERS}
ACTIVE = {'name': '/x', 'state': 'active', 'detail': 'cgroup /x', 'policy': []}

ACCEPTING = {**ACTIVE, 'policy': [{'key': 'AcceptKernelIssues', 'value': 'fionread', 'source': 'set'}]}


class Daemon(Client):
    """Answers as the daemon would."""

    def __init__(self, targets: list[dict[str, Any]], issue: str = '', **stats: int) -> None:
        findings = [{'name': 'ktls', 'severity': 'ok'}, {'name': issue, 'severity': 'issue' if issue else 'note'}]
        self.answers = {
            'ListTargets': targets, 'Stats': ZEROS | stats, 'DescribeCounters': ROWS, 'ListFindings': findings,
            'ListInterceptions': [],
        }  # fmt: skip

    async def call(self, member: str, signature: str = '', *arguments: Any) -> Any:
        return self.answers[member]

    async def properties(self) -> dict[str, Any]:
        return {'Version': '1', 'KernelRelease': '6.1', 'Degraded': 'in long sentences'}


@pytest.fixture(autouse=True)
def nine_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    async def parts(_client: Client, _wanted: Filter) -> AsyncIterator[tuple[listing.Listing, list[Pair]]]:
        layout = Ends(lambda: iter(())).layout
        seen = listing.Listing(layout, [counter.name for counter in COUNTERS], 0, programs=True)
        ends = layout.ends(packed_ends(9))
        yield seen, list(zip(ends, ends, strict=True))
        seen.is_complete = True
        yield seen, []

    monkeypatch.setattr(listing, 'parts', parts)


def shown(daemon: Daemon, capsys: pytest.CaptureFixture[str], *, as_json: bool = False) -> str:
    assert asyncio.run(status.status(daemon, argparse.Namespace(json=as_json))) == 0
    return capsys.readouterr().out


def test_it_works(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(
        Daemon(
            [ACTIVE], connections=3, redirected_bytes=3072, redirected_messages=7, tcp_bytes=1024, tcp_messages=2
        ),
        capsys,
    )
    assert said.startswith(
        'sockaccel 1 on kernel 6.1: on, and it works\n'
        'So far 75.0 % redirected: 3.0K in 7 messages; 1.0K in 2 messages went by TCP. 3 connections have\n'
        '  joined.\n'
        'Kernel: nothing'
    )
    assert 'Attention' not in said
    assert '/x      active  cgroup /x' in said
    assert 'Connections now: 9' in said
    assert '… and 4 more connections, see: sockaccelctl connections' in said


@pytest.mark.parametrize('columns', [80, 100])
def test_nothing_is_wider_than_the_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, 'width', lambda: columns)
    name = '/system.slice/system-postgresql.slice/postgresql@17-main.service'
    policy = [{'key': 'AcceptKernelIssues', 'value': 'another-issue-with-a-long-name', 'source': 'set'}]
    target = {**ACTIVE, 'name': name, 'detail': f'cgroup {name}', 'policy': policy}
    numbers = {name: 10**11 for name in ZEROS}
    for issue in ('fionread', 'another-issue-with-a-long-name'):
        lines = shown(Daemon([target], issue, **numbers), capsys).splitlines()
        assert [line for line in lines if len(line) > columns] == []


@pytest.mark.parametrize(('lines', 'rows'), [(24, [1, 1, 1]), (30, [3, 3, 3]), (1000, [5, 4, 4])])
def test_it_fits_on_one_screen(
    lines: int, rows: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each reason, of 80 columns, and a line for the prompt."""
    monkeypatch.setattr(show, 'width', lambda: 80)
    monkeypatch.setattr(show, 'height', lambda: lines)
    quiet = ('splice_unread', 'map_full', 'not_kept', 'listeners_turned_away')
    numbers = {name: 7 for name in ZEROS if not name.endswith(quiet)}
    said = shown(Daemon([ACCEPTING], 'fionread', **numbers), capsys)
    assert said.startswith('sockaccel 1 on kernel 6.1: on, and it works\n')
    _above, connections, left, messages = re.split(r'\n(?=\n[CM])', said)
    assert len(said.splitlines()) < lines
    found = [connections.count('redirect  '), left.count(' is so'), messages.count(' is so')]
    assert found == rows
    assert all('… and ' in each for each in (connections, left, messages))


@pytest.mark.parametrize(
    ('targets', 'said'),
    [
        ([], 'Attention: this kernel has issues'),
        ([ACCEPTING], 'Kernel: every target accepts its issues: fionread'),
        (
            [ACCEPTING, {**ACTIVE, 'policy': [{'key': 'AcceptKernelIssues', 'value': '', 'source': ''}]}],
            'Attention',
        ),
    ],
)
def test_issues_of_the_kernel(
    targets: list[dict[str, Any]], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in shown(Daemon(targets, 'fionread'), capsys)


@pytest.mark.parametrize(
    ('targets', 'stats', 'verdict'),
    [
        ([], {}, 'on, and nothing is enabled'),
        ([{**ACTIVE, 'state': 'draining'}], {}, 'on, and nothing is enabled'),
        ([{**ACTIVE, 'state': 'waiting'}], {}, 'on, and no target is active'),
        ([{**ACTIVE, 'state': 'probation'}], {}, 'on, and its targets are on probation'),
        ([ACTIVE], {}, 'on, and no connection has joined yet'),
        ([ACTIVE], {'connections': 1}, 'on, and nothing was redirected yet'),
        ([ACTIVE], {'connections': 1, 'redirected_bytes': 1}, 'on, and it works'),
    ],
)
def test_the_verdict(targets: list[dict[str, Any]], stats: dict[str, int], verdict: str) -> None:
    assert status.verdict(targets, ZEROS | stats)[0] == verdict


def test_what_needs_attention_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    refused = {**ACTIVE, 'name': '/y', 'state': 'refused', 'detail': 'it is gone'}
    daemon = Daemon(
        [ACTIVE, refused], 'fionread', connection_reason_map_full=3, connection_reason_mptcp=9,
        listeners_turned_away=2,
    )  # fmt: skip
    lines = shown(daemon, capsys).splitlines()[2:6]
    assert lines[0].startswith('Attention: this kernel has issues that programs can notice: fionread')
    assert lines[1] == 'Attention: target /y was refused: it is gone.'
    assert lines[2] == 'Attention: 3 connections: map_full is so. Do it.'
    assert lines[3].startswith('Attention: 2 listeners')
    said = json.loads(shown(daemon, capsys, as_json=True))
    assert [f'Attention: {sentence}' for sentence in said['Attention']] == lines
    assert said['Connections'] == 9


def test_the_most_frequent_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    names = [counter.name for counter in COUNTERS if counter.kind == 'connection'][:6]
    stats = {f'connection_reason_{name}': number for number, name in enumerate(names)}
    lines = shown(Daemon([ACTIVE], '', **stats), capsys).splitlines()
    found = [line.split()[0] for line in lines if ' is so' in line and 'Attention' not in line]
    assert found == ['5', '4', '3', '2']
    assert '… and 1 more reasons' in lines[-1]
    assert 'Messages that went by TCP:' not in lines
