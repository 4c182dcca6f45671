# SPDX-License-Identifier: GPL-2.0-or-later
"""sockaccelctl. Nouns show, verbs change."""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import textwrap
from collections.abc import Awaitable, Callable
from typing import Any

from sockaccel import __version__
from sockaccel.client import Client, NotRunning, Refused, strings
from sockaccel.layout import endpoint

EX_OK, EX_REFUSED, EX_USAGE, EX_NOT_RUNNING = 0, 1, 2, 3

_EPILOG = """\
exit status:
  0  done
  1  the daemon refused, or doctor found an issue
  2  wrong usage
  3  the daemon is not running
"""


async def enable(client: Client, options: argparse.Namespace) -> int:
    await client.call('EnableWithOptions', 'sa{sv}', options.target, {'accept': strings(options.accept)})
    return EX_OK


async def disable(client: Client, options: argparse.Namespace) -> int:
    await client.call('Disable', 's', options.target)
    return EX_OK


async def status(client: Client, options: argparse.Namespace) -> int:
    properties = await client.properties()
    targets = await client.call('ListTargets')
    stats = await client.call('Stats')
    reasons = await client.call('Reasons')
    _connections, ends = await client.call('ListConnections')
    if options.json:
        rows = [dict(zip(('name', 'state', 'detail'), row, strict=True)) for row in targets]
        return _print_json({**properties, 'TargetStates': rows, 'JoinedEnds': ends, 'Stats': stats})
    print(f'sockaccel {properties["Version"]} on kernel {properties["KernelRelease"]}')
    print()
    if targets:
        for name, state, detail in targets:
            print(f'  {name}  {state} ({detail})')
    else:
        print('  no targets; add one with: sockaccelctl enable UNIT')
    print()
    print(f'Now:      {ends} socket ends joined')
    print(f'So far:   {stats["connections"]} connections; {_share(stats)}')
    _print_reasons('Not accelerated, connections', 'connection', stats, reasons)
    _print_reasons('By TCP, messages', 'message', stats, reasons)
    if properties['Degraded']:
        print()
        print(_wrap(f'Kernel: {properties["Degraded"]}.', '        '))
    return EX_OK


async def stats(client: Client, options: argparse.Namespace) -> int:
    values = await (client.call('TargetStats', 's', options.target) if options.target else client.call('Stats'))
    if options.json:
        return _print_json(values)
    width = max(len(name) for name in values)
    for name, value in values.items():
        print(f'{name:{width}}  {value}')
    return EX_OK


async def connections(client: Client, options: argparse.Namespace) -> int:
    rows, total = await client.call('ListConnections')
    if options.json:
        return _print_json(rows)
    for row in rows:
        print(f'{_flow(row)}  {row["target"]}  {_bytes(row)}{_because(row)}')
    if len(rows) < total:
        print(f'… and {total - len(rows)} more')
    return EX_OK


async def trace(client: Client, options: argparse.Namespace) -> int:
    events = await client.subscribe()
    print('Following what happens to connections; Ctrl-C ends.', file=sys.stderr, flush=True)
    async for event in events:
        if options.target and event['target'] != options.target:
            continue
        if options.json:
            print(json.dumps(event), flush=True)
            continue
        end = 'client' if event['active'] else 'server'
        program = f'{event["program"]}-{event["pid"]}' if event['program'] else '?'
        text = (
            f'{event["time_ns"] / 1e9:15.6f}  {event["kind"]:8} {end} {_flow(event)}  {program}{_because(event)}'
        )
        if event['kind'] == 'closed':
            text += f'  {_bytes(event)}'
        print(text, flush=True)
    raise NotRunning('the sockaccel daemon has stopped')


async def doctor(client: Client, options: argparse.Namespace) -> int:
    findings = await client.call('Findings')
    issues = any(severity == 'issue' for _name, severity, _sentence in findings)
    if options.json:
        _print_json([dict(zip(('name', 'severity', 'sentence'), row, strict=True)) for row in findings])
        return EX_REFUSED if issues else EX_OK
    for name, severity, sentence in findings:
        print(_wrap(f'{severity.upper():5}  {name}: {sentence}', '       '))
        if severity == 'issue':
            print(f'       to put up with it: sockaccelctl enable --accept {name} TARGET')
    return EX_REFUSED if issues else EX_OK


def _share(stats: dict[str, int]) -> str:
    redirected, tcp = stats['redirected_bytes'], stats['tcp_bytes']
    if not redirected + tcp:
        return 'nothing was sent yet'
    share = 100 * redirected / (redirected + tcp)
    return f'{_size(redirected)} redirected, {_size(tcp)} by TCP ({share:.1f} % redirected)'


def _print_reasons(title: str, kind: str, stats: dict[str, int], reasons: list[list[str]]) -> None:
    rows = [
        (stats[f'{kind}_reason_{name}'], sentence)
        for name, of, sentence in reasons
        if of == kind and stats[f'{kind}_reason_{name}']
    ]
    if rows:
        print(f'{title}:')
    for count, sentence in sorted(rows, reverse=True):
        print(f'  {count:>10}  {sentence}')


def _flow(row: dict[str, Any]) -> str:
    return f'{endpoint(row["local"], row["local_port"])} -> {endpoint(row["remote"], row["remote_port"])}'


def _bytes(row: dict[str, Any]) -> str:
    return f'sent {_size(row["redirected_bytes"])} redirected, {_size(row["tcp_bytes"])} by TCP'


def _because(row: dict[str, Any]) -> str:
    return f'  ({row["reason"]})' if row['reason'] else ''


def _size(count: float) -> str:
    for unit in ('B', 'KiB', 'MiB', 'GiB'):
        if count < 1024:
            return f'{count:.0f} {unit}' if unit == 'B' else f'{count:.1f} {unit}'
        count /= 1024
    return f'{count:.1f} TiB'


def _wrap(text: str, indent: str) -> str:
    width = min(os.get_terminal_size().columns, 100) if sys.stdout.isatty() else 100
    return textwrap.fill(text, width, subsequent_indent=indent)


def _print_json(value: Any) -> int:
    print(json.dumps(value, indent=2))
    return EX_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='sockaccelctl',
        description='Accelerate local TCP connections, and see what is accelerated and what is not.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'sockaccelctl {__version__}')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)

    def command(
        run: Callable[[Client, argparse.Namespace], Awaitable[int]],
        sentence: str,
        *,
        json_output: bool = True,
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(run.__name__, help=sentence, description=sentence)
        added.set_defaults(run=run)
        if json_output:
            added.add_argument('--json', action='store_true', help='print JSON')
        return added

    target = 'a unit ("postgresql.service"), a cgroup path ("/system.slice"), or "*" for all of this host'
    added = command(enable, "accelerate a target's connections from now on", json_output=False)
    added.add_argument('target', help=target)
    added.add_argument(
        '--accept',
        action='append',
        default=[],
        metavar='ISSUE',
        help='put up with a kernel issue that doctor names',
    )
    added = command(disable, "let a target's connections go back to TCP", json_output=False)
    added.add_argument('target', help=target)
    command(status, 'show targets, what is accelerated, and what is not and why')
    added = command(stats, 'show the counters')
    added.add_argument('--target', help='only those of one enabled target, since it was enabled')
    command(connections, 'list the sockets that are joined now')
    added = command(trace, 'follow what happens to connections')
    added.add_argument('--target', help='only those of one target')
    command(doctor, 'show what this kernel does to accelerated sockets')
    return parser


async def _run(options: argparse.Namespace) -> int:
    async with Client() as client:
        return int(await options.run(client, options))


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return asyncio.run(_run(options))
    except NotRunning as exc:
        print(f'sockaccelctl: {exc}; start it with: systemctl start sockaccel', file=sys.stderr)
        return EX_NOT_RUNNING
    except Refused as exc:
        print(f'sockaccelctl: {exc}', file=sys.stderr)
        return EX_REFUSED
    except KeyboardInterrupt:
        return EX_OK
    except BrokenPipeError:
        # `sockaccelctl trace | head`: the reader has seen enough.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EX_OK


if __name__ == '__main__':
    sys.exit(main())
