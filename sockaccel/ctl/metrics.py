# SPDX-License-Identifier: GPL-2.0-or-later
"""The command "metrics": what there is to count and to watch, for Prometheus and what understands its formats.

Labels have few values: a target, a reason, a state. Ports, processes and cgroups are in "connections" alone.
"""

import argparse
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sockaccel.core import rows, words
from sockaccel.core.listing import Filter
from sockaccel.ctl import listing
from sockaccel.ctl.client import Client, NotRunning, Refused
from sockaccel.ctl.exits import EX_NOT_RUNNING, EX_OK
from sockaccel.errors import SockaccelError

OPENMETRICS, PROMETHEUS = FORMATS = ('openmetrics', 'prometheus')
# What HTTP calls them.
CONTENT_TYPES = {
    OPENMETRICS: 'application/openmetrics-text; version=1.0.0; charset=utf-8',
    PROMETHEUS: 'text/plain; version=0.0.4; charset=utf-8',
}
# Of a file that others read.
_MODE = 0o644


class NotWritten(SockaccelError):
    """The file of --output could not be replaced."""


@dataclass
class Family:
    """name: without "_total" and "_info". kind: `counter`, `gauge` or `info`. unit: the last word of the name."""

    name: str
    kind: str
    text: str
    unit: str = ''
    samples: list[tuple[Mapping[str, str], int]] = field(default_factory=list)

    def add(self, value: int, **labels: str) -> None:
        self.samples.append((labels, value))

    def lines(self, form: str) -> Iterator[str]:
        """In the older format the name that is described is that of the samples."""
        sample = self.name + {'counter': '_total', 'info': '_info'}.get(self.kind, '')
        name, kind = self.name, self.kind
        if form == PROMETHEUS:
            name, kind = sample, 'gauge' if kind == 'info' else kind
        yield f'# HELP {name} {_escaped(self.text)}'
        yield f'# TYPE {name} {kind}'
        if self.unit and form == OPENMETRICS:
            yield f'# UNIT {name} {self.unit}'
        for labels, value in self.samples:
            shown = ','.join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
            yield f'{sample}{{{shown}}} {value}' if shown else f'{sample} {value}'


async def metrics(client: Client, options: argparse.Namespace) -> int:
    """Raises NotWritten, and what a call raises; without a daemon there is one metric, which says so."""
    text, status = await read(client, options.format)
    if options.output:
        _replace(Path(options.output), text)
    else:
        sys.stdout.write(text)
    return status


async def read(client: Client, form: str) -> tuple[str, int]:
    """All metrics as text, and an exit status. Raises Refused."""
    up = Family('sockaccel_up', 'gauge', 'Whether the daemon answers')
    families, status = [up], EX_OK
    try:
        # A call would start a daemon that an administrator has stopped.
        if not await client.is_running():
            raise NotRunning('the sockaccel daemon is not running')
        families += await _families(client)
        up.add(1)
    except NotRunning:
        up.add(0)
        status = EX_NOT_RUNNING
    return rendered(families, form), status


def rendered(families: Iterable[Family], form: str) -> str:
    """form: one of FORMATS."""
    lines = [line for family in families for line in family.lines(form)]
    if form == OPENMETRICS:
        lines.append('# EOF')
    return '\n'.join(lines) + '\n'


async def _families(client: Client) -> list[Family]:
    build = Family('sockaccel_build', 'info', 'The version of the daemon, and the kernel that it runs on')
    properties = await client.properties()
    build.add(1, version=properties['Version'], kernel=properties['KernelRelease'])
    issues = Family('sockaccel_kernel_issue', 'gauge', 'Whether this kernel has an issue that programs can notice')
    for finding in await client.call('ListFindings'):
        issues.add(int(finding['severity'] == 'issue'), issue=finding['name'])
    targets = await client.call('ListTargets')
    states = Family('sockaccel_target_state', 'gauge', 'Whether a target is in a state')
    for name, now in {row['name']: row['state'] for row in reversed(targets)}.items():
        for state in words.TARGET_STATES.values():
            states.add(int(state == now), target=name, state=state)
    return [
        build, issues, states, await _connections(client), *await _traffic(client, targets),
        *_own(await client.call('Stats')),
    ]  # fmt: skip


async def _connections(client: Client) -> Family:
    found: Counter[tuple[str, str]] = Counter()
    async for seen, pairs in listing.parts(client, Filter()):
        found.update((rows.target_of(pair, seen), rows.STATES[rows.state_of(pair)]) for pair in pairs)
    family = Family('sockaccel_connections', 'gauge', 'Connections that a target covers now, by their state')
    for target in sorted({target for target, _state in found}):
        for state in words.CONNECTION_STATES.values():
            family.add(found[target, state], target=target, state=state)
    return family


async def _traffic(client: Client, targets: list[dict[str, Any]]) -> list[Family]:
    """What each target has counted since it was enabled. Reasons that never were have no sample."""
    redirected = Family('sockaccel_redirected_bytes', 'counter', 'Bytes handed straight to the peer', 'bytes')
    tcp = Family('sockaccel_tcp_bytes', 'counter', 'Bytes of joined connections that went by TCP', 'bytes')
    messages = Family('sockaccel_messages', 'counter', 'Messages of joined connections, by the way they took')
    reasons = Family(
        'sockaccel_tcp_messages', 'counter', 'Messages of joined connections that went by TCP, and why'
    )
    joined = Family('sockaccel_joined_connections', 'counter', 'Connections of which both ends have joined')
    left = Family('sockaccel_left_connections', 'counter', 'Connections that are left to TCP, and why')
    for name in dict.fromkeys(row['name'] for row in targets):
        try:
            stats = await client.call('TargetStats', 's', name)
        except Refused:
            # It is not enabled any more, or could not be.
            continue
        redirected.add(stats['redirected_bytes'], target=name)
        tcp.add(stats['tcp_bytes'], target=name)
        messages.add(stats['redirected_messages'], target=name, path='redirect')
        messages.add(stats['tcp_messages'], target=name, path='tcp')
        joined.add(stats['connections'], target=name)
        for family, prefix in ((reasons, 'message_reason_'), (left, 'connection_reason_')):
            for counter, value in stats.items():
                if counter.startswith(prefix) and value:
                    family.add(value, target=name, reason=counter.removeprefix(prefix))
    return [redirected, tcp, messages, reasons, joined, left]


def _own(stats: dict[str, int]) -> Iterator[Family]:
    """Where sockaccel itself met a limit."""
    for name, text in (
        ('events_suppressed', 'Events above EventsPerSecond='),
        ('events_lost', 'Events that found no room'),
        ('listeners_turned_away', 'Listeners of targets above the limit'),
    ):
        family = Family(f'sockaccel_{name}', 'counter', text)
        family.add(stats[name])
        yield family


def _escaped(text: str) -> str:
    return text.replace('\\', r'\\').replace('\n', r'\n').replace('"', r'\"')


def _replace(path: Path, text: str) -> None:
    """Whoever reads the file sees the former metrics or these. Raises NotWritten."""
    # The collector looks at names that end in ".prom".
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        with temporary.open('x', encoding='utf-8') as file:
            file.write(text)
            os.fchmod(file.fileno(), _MODE)
        temporary.replace(path)
    except OSError as exc:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise NotWritten(f'cannot write "{path}" ({exc.strerror}): is its directory there, and yours?') from exc
