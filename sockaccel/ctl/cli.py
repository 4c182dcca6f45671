# SPDX-License-Identifier: GPL-2.0-or-later
"""sockaccelctl. Nouns show, verbs change."""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any

from sockaccel import __version__
from sockaccel.core import config
from sockaccel.core.listing import PATHS
from sockaccel.core.target import Target
from sockaccel.ctl import show, top
from sockaccel.ctl.bench import BenchFailed, bench
from sockaccel.ctl.client import Client, NotRunning, Refused, boolean, integer, string, strings
from sockaccel.errors import InvalidConfiguration

EX_OK, EX_REFUSED, EX_USAGE, EX_NOT_RUNNING, EX_NOT_PERMITTED = 0, 1, 2, 3, 4

_EPILOG = """\
exit status:
  0  done
  1  the daemon refused, or doctor found an issue
  2  wrong usage
  3  the daemon is not running
  4  not permitted

examples:
  sockaccelctl enable postgresql.service      accelerate its new connections
  sockaccelctl status                         see what is accelerated, and what is not and why
  sockaccelctl connections --path tcp         those that go by TCP at the moment, with the reason
  sockaccelctl disable postgresql.service     undo it

See sockaccelctl(1).
"""
_SHOWN_IN_STATUS, _REASONS_IN_STATUS = 5, 6
_EVENT_KINDS = ('joined', 'refused', 'fallback', 'closed', 'evicted')


async def enable(client: Client, options: argparse.Namespace) -> int:
    chosen = {'accept': strings(options.accept)}
    if options.runtime:
        chosen['runtime'] = boolean(True)
    await client.call('EnableWithOptions', 'sa{sv}', options.target, chosen)
    for name, state, detail in await client.call('ListTargets'):
        if name == Target.parse(options.target).name:
            print(f'Enabled "{name}": {state} ({detail}). Its new connections are accelerated from now on.')
    return EX_OK


async def disable(client: Client, options: argparse.Namespace) -> int:
    chosen = {'runtime': boolean(True)} if options.runtime else {}
    await client.call('DisableWithOptions', 'sa{sv}', options.target, chosen)
    print(f'Disabled "{options.target}": its connections go on by TCP.')
    return EX_OK


async def reload(client: Client, _options: argparse.Namespace) -> int:
    await client.call('Reload')
    return EX_OK


async def status(client: Client, options: argparse.Namespace) -> int:
    properties = await client.properties()
    rows = await client.call('ListTargets')
    counters = await client.call('Stats')
    reasons = await client.call('Reasons')
    busiest, total, _listing = await client.call('ListConnections', 'a{sv}tt', {}, 0, 0)
    if options.json:
        named = [dict(zip(('name', 'state', 'detail'), row, strict=True)) for row in rows]
        show.print_json({**properties, 'TargetStates': named, 'Connections': total, 'Stats': counters})
        return EX_OK
    print(show.styled(f'sockaccel {properties["Version"]} on kernel {properties["KernelRelease"]}', 'bold'))
    print()
    _print_targets(rows)
    print()
    print(f'Connections now: {total}')
    if busiest:
        _print_connections(busiest[:_SHOWN_IN_STATUS], total, 'see: sockaccelctl connections', '  ')
    print()
    redirected, tcp = counters['redirected_bytes'], counters['tcp_bytes']
    print(
        f'So far: {counters["connections"]} connections, {show.size(redirected)} redirected, {show.size(tcp)} by '
        f'TCP ({show.share(redirected, tcp)})'
    )
    _print_reasons('Connections that are not accelerated:', 'connection', counters, reasons)
    _print_reasons('Messages that went by TCP:', 'message', counters, reasons)
    print()
    if properties['Degraded']:
        print(show.wrapped(f'Kernel: {properties["Degraded"]} (sockaccelctl doctor).', '        '))
    else:
        print('Kernel: nothing that ordinary programs would notice (sockaccelctl doctor).')
    return EX_OK


async def targets(client: Client, options: argparse.Namespace) -> int:
    rows = await client.call('ListTargets')
    if options.json:
        show.print_json([dict(zip(('name', 'state', 'detail'), row, strict=True)) for row in rows])
    elif options.names:
        for name, _state, _detail in rows:
            print(name)
    else:
        _print_targets(rows)
    return EX_OK


async def stats(client: Client, options: argparse.Namespace) -> int:
    if options.since_reset or options.reset:
        values = await client.call('StatsSinceReset', 's', options.target or '')
    elif options.target:
        values = await client.call('TargetStats', 's', options.target)
    else:
        values = await client.call('Stats')
    if options.json:
        show.print_json(values)
    else:
        for line in show.table([[name, str(value)] for name, value in values.items()]):
            print(line)
    if options.reset:
        await client.call('ResetCounters', 's', options.target or '')
    return EX_OK


async def connections(client: Client, options: argparse.Namespace) -> int:
    wanted = {}
    for name in ('target', 'path', 'port', 'address', 'program', 'pid', 'reason'):
        value = getattr(options, name)
        if value is not None:
            wanted[name] = integer(value) if isinstance(value, int) else string(value)
    rows, total, listing = await client.call('ListConnections', 'a{sv}tt', wanted, 0, 0)
    limit = options.limit or total
    while len(rows) < min(limit, total):
        more, total, listing = await client.call('ListConnections', 'a{sv}tt', {}, listing, len(rows))
        rows += more
    rows = rows[:limit]
    if options.json:
        show.print_json(rows)
        return EX_OK
    if rows:
        _print_connections(rows, total, 'see --limit')
        named = {row[f'{end}_reason'] for row in rows for end in ('client', 'server')}
        for name, _kind, sentence in await client.call('Reasons'):
            if name in named:
                print(show.styled(show.cut(f'{name}: {sentence}', show.width()), 'dim'))
    elif show.is_terminal():
        print('No connection of a target is like that.' if wanted else 'No target has a connection.')
    return EX_OK


async def live(client: Client, options: argparse.Namespace) -> int:
    await top.run(client, options.interval, options.count)
    return EX_OK


async def trace(client: Client, options: argparse.Namespace) -> int:
    sentences = {name: sentence for name, _kind, sentence in await client.call('Reasons')}
    before = await client.call('Stats')
    events = await client.subscribe()
    print('Following what happens to connections; Ctrl-C ends.', file=sys.stderr, flush=True)
    # From CLOCK_MONOTONIC, which is what the kernel side has, to the time of day.
    offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    try:
        async for event in _wanted(events, options):
            if options.json:
                print(json.dumps(event), flush=True)
                continue
            when = datetime.fromtimestamp((event['time_ns'] + offset) / 1e9).astimezone()
            print(show.event(event, f'{when:%H:%M:%S.%f}', sentences), flush=True)
    except asyncio.CancelledError:
        after = await client.call('Stats')
        if left_out := sum(after[name] - before[name] for name in ('events_suppressed', 'events_lost')):
            print(f'{left_out} events were left out, see EventsPerSecond= in sockaccel.conf(5).', file=sys.stderr)
        raise
    raise NotRunning('the sockaccel daemon has stopped')


async def _wanted(
    events: AsyncIterator[dict[str, Any]], options: argparse.Namespace
) -> AsyncIterator[dict[str, Any]]:
    async for event in events:
        if options.port is not None and options.port not in (event['local_port'], event['remote_port']):
            continue
        names = ('target', 'kind', 'reason', 'program')
        if all(getattr(options, name) in (None, event[name]) for name in names):
            yield event


async def doctor(client: Client, options: argparse.Namespace) -> int:
    findings = await client.call('Findings')
    issues = any(severity == 'issue' for _name, severity, _sentence in findings)
    if options.json:
        show.print_json([dict(zip(('name', 'severity', 'sentence'), row, strict=True)) for row in findings])
        return EX_REFUSED if issues else EX_OK
    for name, severity, sentence in findings:
        word = show.styled(f'{severity.upper():5}', show.SEVERITY_STYLES.get(severity, ''))
        print(word + show.wrapped(f'       {name}: {sentence}', '       ')[5:])
        if severity == 'issue':
            print(f'       to put up with it: sockaccelctl enable --accept {name} TARGET')
    return EX_REFUSED if issues else EX_OK


async def configuration(client: Client, options: argparse.Namespace) -> int:
    _print_configuration(await client.call('Configuration'), options)
    return EX_OK


def _configuration_of_files(options: argparse.Namespace) -> int:
    """What a daemon that is started now would use."""
    try:
        rows = config.load(config.files()).rows()
    except InvalidConfiguration as exc:
        print(f'sockaccelctl: {exc}', file=sys.stderr)
        return EX_REFUSED
    print('sockaccelctl: the daemon is not running; this is what it would start with', file=sys.stderr)
    _print_configuration(rows, options)
    return EX_OK


def _print_configuration(rows: list[Any], options: argparse.Namespace) -> None:
    if options.json:
        show.print_json([dict(zip(('key', 'value', 'source'), row, strict=True)) for row in rows])
        return
    shown = [[f'{key}={value}', f'# {source or "default"}'] for key, value, source in rows]
    for line in show.table(shown, styles=['' if source else 'dim' for _key, _value, source in rows]):
        print(line)


def _print_targets(rows: list[list[str]]) -> None:
    if not rows:
        print('No targets; add one with: sockaccelctl enable UNIT')
        return
    styles = ['bold', *(show.STATE_STYLES.get(state, '') for _name, state, _detail in rows)]
    for line in show.table([['TARGET', 'STATE', 'DETAIL'], *rows], styles=styles):
        print(line)


def _print_connections(rows: list[dict[str, Any]], total: int, more: str, indent: str = '') -> None:
    styles = ['bold', *map(show.path_style, rows)]
    cells = [show.CONNECTION_COLUMNS, *map(show.connection, rows)]
    for line in show.table(cells, columns=show.width() - len(indent), styles=styles):
        print(indent + line)
    if len(rows) < total:
        print(f'{indent}… and {total - len(rows)} more, {more}')


def _print_reasons(title: str, kind: str, counters: dict[str, int], reasons: list[list[str]]) -> None:
    rows = [
        (counters[f'{kind}_reason_{name}'], name, sentence)
        for name, of, sentence in reasons
        if of == kind and counters[f'{kind}_reason_{name}']
    ]
    if rows:
        print(title)
    rows.sort(reverse=True)
    for count, name, sentence in rows[:_REASONS_IN_STATUS]:
        print(show.cut(f'  {count:>10}  {name}: {sentence}', show.width()))
    if len(rows) > _REASONS_IN_STATUS:
        print(f'              … and {len(rows) - _REASONS_IN_STATUS} more reasons, see: sockaccelctl stats')


def _positive(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f'"{text}" is not a number of seconds from 0.1 to 3600')
    return value


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 20 or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f'"{text}" is not a number from {lowest} to {highest}')
        return int(text)

    return number


def _text(text: str) -> str:
    """D-Bus carries nothing but UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f'{text!a} is not UTF-8 text') from None
    return text


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='sockaccelctl',
        description='Accelerate local TCP connections, and see what is accelerated and what is not.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'sockaccelctl {__version__}')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True, dest='command')

    def command(
        run: Callable[[Client, argparse.Namespace], Awaitable[int]],
        sentence: str,
        *,
        name: str = '',
        json_output: bool = True,
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name or run.__name__, help=sentence, description=sentence)
        added.set_defaults(run=run)
        if json_output:
            added.add_argument('--json', action='store_true', help='print JSON')
        return added

    target = 'a unit ("postgresql.service"), a cgroup path ("/system.slice"), or "*" for all of this host'
    added = command(status, 'show targets, what is accelerated, and what is not and why')
    added = command(enable, "accelerate a target's connections from now on", json_output=False)
    added.add_argument('target', type=_text, metavar='TARGET', help=target)
    added.add_argument('--runtime', action='store_true', help='until the daemon is stopped, not remembered')
    added.add_argument(
        '--accept', action='append', default=[], metavar='ISSUE', type=_text,
        help='put up with a kernel issue that doctor names',
    )  # fmt: skip
    added = command(disable, "let a target's connections go back to TCP", json_output=False)
    added.add_argument('target', type=_text, metavar='TARGET', help=target)
    added.add_argument(
        '--runtime', action='store_true', help='until the daemon is stopped; what is remembered comes back'
    )
    added = command(targets, 'list the targets with their state')
    added.add_argument('--names', action='store_true', help='print nothing but the names, for scripts')
    added = command(connections, 'list the connections that targets cover, the busiest first')
    added.add_argument('--target', type=_text, help='only those of one target')
    added.add_argument('--path', choices=PATHS, help='only those whose last messages went this way')
    added.add_argument('--port', type=_number(1, 65535), help='only those with this port at one end')
    added.add_argument('--address', type=_text, help='only those with this IP address at one end')
    added.add_argument('--program', type=_text, help='only those of a program, by the name that the kernel knows')
    added.add_argument('--pid', type=_number(1, 2**32 - 1), help='only those of a process')
    added.add_argument('--reason', type=_text, help='only those that go by TCP for a reason')
    added.add_argument(
        '--limit', type=_number(0, 10**9), default=50, metavar='N', help='no more than N, 0 for all (default: 50)'
    )
    added = command(live, 'watch targets and connections, redrawn every second', name='top', json_output=False)
    added.add_argument('--interval', type=_positive, default=1.0, metavar='S', help='seconds (default: 1)')
    added.add_argument(
        '--count', type=_number(1, 10**9), metavar='N', help='end after N pictures; 1 without a terminal'
    )
    added = command(trace, 'follow what happens to connections')
    added.add_argument('--target', type=_text, help='only those of one target')
    added.add_argument('--kind', choices=_EVENT_KINDS, help='only one kind of event')
    added.add_argument('--port', type=_number(1, 65535), help='only connections with this port at one end')
    added.add_argument('--program', type=_text, help='only those of a program')
    added.add_argument('--reason', type=_text, help='only events with a reason')
    added = command(stats, 'show the counters')
    added.add_argument('--target', type=_text, help='only those of one enabled target, since it was enabled')
    added.add_argument('--since-reset', action='store_true', help='since the last --reset')
    added.add_argument(
        '--reset', action='store_true', help='show those since the last reset, and let the next begin at zero'
    )
    command(doctor, 'show what this kernel does to accelerated sockets')
    command(bench, 'measure what acceleration brings on this machine; half a minute, as root')
    command(configuration, 'show the configuration in force, and where each value is from', name='config')
    command(reload, 'read the configuration anew', json_output=False)
    return parser


async def _run(options: argparse.Namespace) -> int:
    async with Client() as client:
        return int(await options.run(client, options))


def _fail(message: str, hint: str, code: int) -> int:
    print(f'sockaccelctl: {message}', file=sys.stderr)
    if hint:
        print(f'sockaccelctl: {hint}', file=sys.stderr)
    return code


def _status(options: argparse.Namespace) -> int:
    try:
        return asyncio.run(_run(options))
    except NotRunning as exc:
        if options.run is configuration:
            return _configuration_of_files(options)
        return _fail(str(exc), 'start it with: systemctl enable --now sockaccel', EX_NOT_RUNNING)
    except BenchFailed as exc:
        return _fail(str(exc), '', EX_REFUSED)
    except Refused as exc:
        kind = exc.name.rsplit('.', 1)[-1]
        if kind in ('NotPermitted', 'AccessDenied'):
            return _fail(str(exc), f'try: sudo sockaccelctl {options.command} …', EX_NOT_PERMITTED)
        hints = {
            'UnknownTarget': 'see what is enabled: sockaccelctl targets',
            'UnknownMethod': 'the daemon is older than this program: systemctl restart sockaccel',
        }
        return _fail(str(exc), hints.get(kind, ''), EX_REFUSED)
    except KeyboardInterrupt:
        return EX_OK


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        status = _status(options)
        # What is still buffered would find the pipe closed where nobody catches it any more.
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # `sockaccelctl trace | head`: the reader has seen enough.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EX_OK


if __name__ == '__main__':
    sys.exit(main())
