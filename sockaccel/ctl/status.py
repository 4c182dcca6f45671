# SPDX-License-Identifier: GPL-2.0-or-later
"""The command "status": is it on, does it work, what is it worth, what needs attention; then the details."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sockaccel.core.listing import Filter
from sockaccel.ctl import listing, printing, show
from sockaccel.ctl.client import Client
from sockaccel.ctl.exits import EX_OK

Row = dict[str, Any]

# At most, where the terminal has room for them.
_CONNECTIONS, _REASONS = 5, 4
# Reasons of connections that are about a limit of sockaccel's own, or about a stream that is broken.
_ALARMING = ('splice_unread', 'map_full', 'not_kept')


@dataclass
class _List:
    """The first rows of a longer list, of which a low terminal shows fewer.

    head: lines above the rows. total: how many there are. more: names them, and where they are.
    """

    head: list[str]
    rows: list[str]
    total: int
    more: str

    def lines(self, count: int) -> list[str]:
        """With so many of the rows, or all."""
        rest = self.total - min(count, len(self.rows))
        return ['', *self.head, *self.rows[:count], *([f'  … and {rest} more {self.more}'] if rest else [])]


async def status(client: Client, options: argparse.Namespace) -> int:
    properties = await client.properties()
    targets = await client.call('ListTargets')
    led = await client.call('ListInterceptions')
    stats = await client.call('Stats')
    counters = await client.call('DescribeCounters')
    busiest, total = await listing.busiest(client, Filter(), _CONNECTIONS)
    issues = [row['name'] for row in await client.call('ListFindings') if row['severity'] == 'issue']
    notable = list(attention(issues, targets, stats, counters))
    if options.json:
        show.print_json({
            **properties, 'TargetStates': targets, 'Connections': total, 'Stats': stats,
            'Verdict': verdict(targets, stats)[0], 'Attention': notable, 'Interceptions': led,
        })  # fmt: skip
        return EX_OK
    above = _head(properties, issues, targets, stats, notable) + printing.target_lines(targets)
    if led:
        above += ['', *printing.interception_lines(led)]
    lists = [
        _connections(busiest, total),
        *_reasons('Connections that are not accelerated:', 'connection', stats, counters),
        *_reasons('Messages that went by TCP:', 'message', stats, counters),
    ]
    # One line is for the shell's prompt.
    print('\n'.join(above + _fitted(lists, show.height() - len(above) - 1)))
    return EX_OK


def _fitted(lists: list[_List], height: int) -> list[str]:
    """At least one row of each, and as many as there is room for."""
    for most in range(max(_CONNECTIONS, _REASONS), 0, -1):
        found = [line for each in lists for line in each.lines(most)]
        if len(found) <= height:
            break
    return found


def _head(
    properties: Row, issues: list[str], targets: list[Row], stats: dict[str, int], notable: list[str]
) -> list[str]:
    said, style = verdict(targets, stats)
    found = [
        show.styled(f'sockaccel {properties["Version"]} on kernel {properties["KernelRelease"]}: {said}', style)
    ]
    sentences = [worth(stats), *(f'Attention: {sentence}' for sentence in notable)]
    if not issues:
        sentences.append('Kernel: nothing that ordinary programs would notice (sockaccelctl doctor).')
    elif not _not_accepted(issues, targets):
        sentences.append(f'Kernel: every target accepts its issues: {", ".join(issues)} (sockaccelctl doctor).')
    for sentence in sentences:
        found += show.wrapped(sentence, '  ').splitlines()
    return [*found, '']


def verdict(targets: list[Row], stats: dict[str, int]) -> tuple[str, str]:
    """Whether it is on and works, in words; and a style for them."""
    states = [target['state'] for target in targets]
    if not {'active', 'waiting', 'refused', 'probation'} & set(states):
        return 'on, and nothing is enabled', 'yellow'
    if 'active' not in states:
        if 'probation' in states:
            return 'on, and its targets are on probation', 'yellow'
        return 'on, and no target is active', 'yellow'
    if not stats['connections']:
        return 'on, and no connection has joined yet', 'yellow'
    if not stats['redirected_bytes']:
        return 'on, and nothing was redirected yet', 'yellow'
    return 'on, and it works', 'green'


def worth(stats: dict[str, int]) -> str:
    """What was redirected. How much CPU time that saved depends on the programs: "bench" measures it."""
    redirected, tcp = stats['redirected_bytes'], stats['tcp_bytes']
    if not redirected + tcp:
        return 'So far no connection of a target that has joined has sent anything.'
    by_redirect, by_tcp = (
        f'{show.size(stats[way + "_bytes"])} in {stats[way + "_messages"]} messages'
        for way in ('redirected', 'tcp')
    )
    return (
        f'So far {show.share(redirected, tcp)}: {by_redirect}; {by_tcp} went by TCP. '
        f'{stats["connections"]} connections have joined.'
    )


def attention(issues: list[str], targets: list[Row], stats: dict[str, int], counters: list[Row]) -> Iterator[str]:
    """What an administrator has to look at, in sentences. issues: of the kernel, by name."""
    if found := _not_accepted(issues, targets):
        yield f'this kernel has issues that programs can notice: {", ".join(found)} (sockaccelctl doctor).'
    for target in targets:
        if target['state'] == 'refused':
            yield f'target {target["name"]} was refused: {target["detail"]}.'
    for counter in counters:
        count = stats.get(f'{counter["kind"]}_reason_{counter["name"]}', 0)
        if count and counter['name'] in _ALARMING:
            yield f'{count} connections: {counter["sentence"]}. {counter["advice"]}'
    if count := stats['listeners_turned_away']:
        yield f'{count} listeners of targets were above the limit (LIMITS in sockaccel(8)).'


def _not_accepted(issues: list[str], targets: list[Row]) -> list[str]:
    """Issues of the kernel that not every enabled target accepts."""
    accepted = [
        rule['value'].split()
        for target in targets
        for rule in target['policy']
        if rule['key'] == 'AcceptKernelIssues'
    ]
    return [issue for issue in issues if not accepted or any(issue not in names for names in accepted)]


def _connections(busiest: list[Row], total: int) -> _List:
    head, *rows = printing.ConnectionTable('  ').lines(busiest) if busiest else ['']
    title = f'Connections now: {total}'
    return _List([title, head] if head else [title], rows, total, 'connections, see: sockaccelctl connections')


def _reasons(title: str, kind: str, stats: dict[str, int], counters: list[Row]) -> Iterator[_List]:
    """The most frequent reasons of a kind, `connection` or `message`."""
    rows = []
    for counter in counters:
        if counter['kind'] == kind and (count := stats[f'{kind}_reason_{counter["name"]}']):
            rows.append((count, counter['name'], counter['sentence']))
    rows.sort(reverse=True)
    lines = [show.cut(f'  {count:>10}  {name}: {sentence}', show.width()) for count, name, sentence in rows]
    if rows:
        yield _List([title], lines[:_REASONS], len(rows), 'reasons, see: sockaccelctl stats')
