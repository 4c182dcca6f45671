# SPDX-License-Identifier: GPL-2.0-or-later
"""The command "why": answers in sentences what becomes of a connection, a program or a port, and what to do."""

import argparse
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sockaccel.core.connection import endpoint
from sockaccel.core.rows import Row
from sockaccel.core.target import UNIT_SUFFIXES, quote
from sockaccel.ctl import listing, processes, show
from sockaccel.ctl.client import Client
from sockaccel.ctl.exits import EX_OK, EX_REFUSED
from sockaccel.ctl.processes import Process
from sockaccel.ctl.subject import PROGRAM_BYTES, Subject

# Of the connections that are looked at, and of the kinds of them that are shown.
_LOOKED_AT, _SHOWN = 10_000, 10
# How many destinations of led connections are named.
_ORIGINS = 3
_ALIKE = (
    'target', 'state', 'path', 'client_program', 'server_address', 'server_port', 'server_program',
    'client_reason', 'server_reason',
)  # fmt: skip


@dataclass
class Answer:
    """title: what it is about. sentences: each is a paragraph. facts: the same for scripts.

    is_known: whether there is anything of that kind.
    """

    title: str
    sentences: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    is_known: bool = True

    def as_json(self) -> dict[str, Any]:
        return {'about': self.title, **self.facts, 'sentences': self.sentences}


async def why(client: Client, options: argparse.Namespace) -> int:
    """Raises InvalidArgument, and what `listing.parts` raises."""
    subject = Subject.parse(options.subject)
    targets = await client.call('ListTargets')
    counters = {row['name']: row for row in await client.call('DescribeCounters')}
    rows, total = await listing.busiest(client, subject.wanted, _LOOKED_AT)
    if rows:
        answers = [_of_alike(alike, counters, targets) for alike in _groups(rows)]
    else:
        left = {
            row['name'].rpartition('/')[2][:PROGRAM_BYTES]: row['why']
            for row in await client.call('ListPrograms')
            if row['in_force']
        }
        answers = _of_nothing(subject, targets, left)
    if options.json:
        show.print_json([answer.as_json() for answer in answers])
    else:
        _print(answers, total)
    return EX_OK if all(answer.is_known for answer in answers) else EX_REFUSED


def _print(answers: list[Answer], total: int) -> None:
    for number, answer in enumerate(answers[:_SHOWN]):
        if number:
            print()
        print(show.styled(show.cut(answer.title, show.width()), 'bold'))
        for sentence in answer.sentences:
            print(show.wrapped(f'  {sentence}', '    '))
    if len(answers) > _SHOWN:
        print(f'\n… and {len(answers) - _SHOWN} more kinds of {total} connections, see: sockaccelctl connections')


def _groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Connections that have the same answer, the busiest first."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in _ALIKE)].append(row)
    return list(groups.values())


def _of_alike(rows: list[Row], counters: dict[str, Row], targets: list[Row]) -> Answer:
    """rows: connections with the same answer."""
    one, count = rows[0], len(rows)
    oldest = max(row['age_ns'] for row in rows)
    since = f'since {show.duration(oldest)}'
    if count > 1:
        since = f'{count} connections, the oldest {since}'
    client = one['client_program'] or 'clients'
    if count == 1:
        client = f'{endpoint(one["client_address"], one["client_port"])} {one["client_program"]}'.rstrip()
    server = f'{endpoint(one["server_address"], one["server_port"])} {one["server_program"]}'.rstrip()
    redirected, tcp = (
        sum(row[f'{end}_{way}_bytes'] for row in rows for end in ('client', 'server'))
        for way in ('redirected', 'tcp')
    )
    said = [
        f'Covered by the target {one["target"]}.' if one['target'] else 'Its target is gone.',
        *_led(rows),
        *_state(one, counters),
        *_rules(one, targets),
        f'So far {show.size(redirected)} redirected and {show.size(tcp)} by TCP ({show.share(redirected, tcp)}).',
    ]
    facts = {
        **{key: one[key] for key in _ALIKE},
        'connections': count, 'oldest_age_ns': oldest, 'redirected_bytes': redirected, 'tcp_bytes': tcp,
    }  # fmt: skip
    return Answer(f'{client} -> {server}: {since}', said, facts)


def _led(rows: list[Row]) -> list[str]:
    """Where the clients wanted to go, if they were led to a proxy instead."""
    origins = {endpoint(row['origin_address'], row['origin_port']): 0 for row in rows if row['origin_address']}
    if not origins:
        return []
    named = ', '.join(list(origins)[:_ORIGINS])
    more = f' and {len(origins) - _ORIGINS} more' if len(origins) > _ORIGINS else ''
    return [f'Led to this proxy: the client wanted {named}{more} (sockaccelctl intercept).']


def _state(row: Row, counters: dict[str, Row]) -> list[str]:
    """Whether it is accelerated, and if not, why and what to do."""
    reasons = [reason for reason in (row['client_reason'], row['server_reason']) if reason]
    if row['state'] == 'joined':
        said = 'Accelerated: both ends have joined'
        if row['path'] == 'redirect':
            return [f'{said}, and what they send is redirected.']
        where = 'in both directions'
        if row['path'] == 'mixed':
            where = 'to the server' if row['client_reason'] else 'to the client'
        said += f'; but the last message {where} went by TCP.'
    elif reasons:
        said = 'Not accelerated.' if row['state'] == 'left' else 'Not accelerated at the moment.'
    elif row['state'] == 'connecting':
        return ['Not accelerated yet: it is being established.']
    else:
        return [
            'Not accelerated yet: it joins once it is old enough (JoinDelayMs=), its server has accepted it, and '
            'both ends are known to read without blocking.'
        ]
    return [said, *(sentence for reason in dict.fromkeys(reasons) for sentence in _reason(reason, counters))]


def _reason(name: str, counters: dict[str, Row]) -> Iterator[str]:
    """What a reason is, and what to do about it."""
    if name in counters:
        yield f'Reason {name}: {counters[name]["sentence"]}.'
        advice = str(counters[name]['advice'])
        yield advice if advice.startswith('Nothing') else f'What to do: {advice}'


def _rules(row: Row, targets: list[Row]) -> list[str]:
    """Which lines of the configuration leave it out."""
    if 'excluded' not in (row['client_reason'], row['server_reason']):
        return []
    policy: list[Row] = next((target['policy'] for target in targets if target['name'] == row['target']), [])
    return [
        f'The configuration says {rule["key"]}={rule["value"]} ({rule["source"] or "default"}).'
        for rule in policy
        if rule['key'].startswith(('Include', 'Exclude')) and rule['value']
    ]


def _of_nothing(subject: Subject, targets: list[Row], left: Mapping[str, str]) -> list[Answer]:
    """Why sockaccel has no connection of a subject. left: the programs that are left to TCP by name, and why."""
    wanted = subject.wanted
    if wanted.target is not None:
        return [_of_target(wanted.target, targets)]
    missing = 'There is none, or you may not see it'
    if wanted.port is not None:
        there, owners = processes.listening(wanted.port)
        missing = 'Nobody listens there in this network namespace'
    else:
        one = processes.process(wanted.pid) if wanted.pid is not None else None
        owners = [one] if one else processes.all_named(wanted.program or '')
        there = bool(owners)
    if not there:
        said = f'{missing}, and no connection of a target is like that.'
        return [Answer(subject.words, [said], {'connections': 0, 'target': ''}, is_known=False)]
    if not owners:
        said = 'No target covers a connection of it. As root this command also says whose it is.'
        return [Answer(subject.words, [said], {'connections': 0, 'target': ''})]
    by_cgroup = {owner.cgroup: owner for owner in reversed(owners)}
    return [_of_process(owner, targets, left) for owner in by_cgroup.values()]


def _of_target(name: str, targets: list[Row]) -> Answer:
    target = next((target for target in targets if target['name'] == name), None)
    facts = {'connections': 0, 'target': name if target else ''}
    if target is None:
        said = f'It is not enabled. To accelerate it: sudo sockaccelctl enable {shlex.quote(name)}'
    else:
        said = {
            'active': 'It is enabled, and has no connection: its programs have made none since, or closed them.',
            'waiting': f'It is enabled, and waits for its cgroup: {target["detail"]}.',
            'refused': f'It was enabled, and cannot be enabled any more: {target["detail"]}.',
            'draining': f'It is disabled: {target["detail"]}.',
        }.get(target['state'], target['detail'])
    return Answer(f'target {quote(name)}', [said], facts)


def _of_process(owner: Process, targets: list[Row], left: Mapping[str, str]) -> Answer:
    """Why sockaccel has no connection of a process."""
    covering = [row['name'] for row in targets if _is_below(owner.cgroup, row['cgroup'])]
    if covering:
        said = [
            f'Covered by the target {covering[0]}, but it has no connection that sockaccel knows.',
            'It has made none since the target was enabled, or has closed them. Older ones may not be known: let '
            'it connect again, or restart it.',
        ]
        return Answer(owner.words, said, {'connections': 0, 'target': covering[0]})
    said = [
        f'No target covers it, or a program that it is connected to. It is in the cgroup {owner.cgroup or "/"}.',
        f'To accelerate it: sudo sockaccelctl enable {shlex.quote(target_for(owner.cgroup))}',
    ]
    if owner.program in left:
        said[-1] = f'A target would not accelerate it either: {left[owner.program]} (sockaccelctl programs).'
    return Answer(owner.words, said, {'connections': 0, 'target': '', 'cgroup': owner.cgroup})


def _is_below(cgroup: str, parent: str) -> bool:
    return bool(parent) and (cgroup == parent or parent == '/' or cgroup.startswith(f'{parent}/'))


def target_for(cgroup: str) -> str:
    """What one would enable for a process: the unit of the system manager that it belongs to, or its cgroup."""
    parts = cgroup.strip('/').split('/')
    for part in parts:
        # What is below belongs to a user's manager, or to what runs in the unit: the path names it.
        if part.startswith('user@') or not part.endswith(tuple(UNIT_SUFFIXES)):
            break
        if part.endswith('.service'):
            return part
    return cgroup or '/'
