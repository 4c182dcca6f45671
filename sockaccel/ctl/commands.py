# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands of sockaccelctl: each asks the daemon, prints, and returns the exit status."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterable
from datetime import datetime

from sockaccel.core import config
from sockaccel.core.keys import POLICY_KEYS
from sockaccel.ctl import printing, show, top
from sockaccel.ctl.client import Client, NotRunning, Refused, boolean, count, integer, string, strings
from sockaccel.ctl.exits import EX_OK, EX_REFUSED
from sockaccel.dbus.message import Variant
from sockaccel.errors import InvalidConfiguration


async def enable(client: Client, options: argparse.Namespace) -> int:
    chosen = _policy(options)
    if options.runtime:
        chosen['runtime'] = boolean(True)
    if options.wait:
        chosen['wait'] = boolean(True)
    if options.probation:
        chosen['probation'] = count(options.probation)
    row = await client.call('EnableWithOptions', 'sa{sv}', options.target, chosen)
    if row['state'] == 'probation':
        print(f'Probation of "{row["name"]}": {row["detail"]}. See how it went: sockaccelctl targets')
        return EX_OK
    when = 'once it is there' if row['state'] == 'waiting' else 'from now on'
    enabled = f'Enabled "{row["name"]}": {row["state"]} ({row["detail"]})'
    print(f'{enabled}. Its new connections are accelerated {when}.')
    _tell_adopted(await _adopted(client, row['name']))
    return EX_OK


async def _adopted(client: Client, target: str) -> int:
    """How many connections a target has adopted so far; 0 for one that is not enabled."""
    try:
        return int((await client.call('TargetStats', 's', target))['adopted'])
    except Refused:
        return 0


def _tell_adopted(adopted: int) -> None:
    if adopted:
        print(f'Adopted {adopted} connections that were there before.')


async def set_policy(client: Client, options: argparse.Namespace) -> int:
    texts: dict[str, str] = {}
    for key, text in options.settings:
        # As in a file: lists grow.
        grows = key in POLICY_KEYS and POLICY_KEYS[key].type == 'as' and text
        texts[key] = f'{texts.get(key, "")} {text}'.strip() if grows else text
    chosen = {key: string(text) for key, text in texts.items()}
    before = await _adopted(client, options.target)
    row = await client.call('SetPolicy', 'sa{sv}', options.target, chosen)
    print(f'Policy of "{row["name"]}":')
    printing.policy([each for each in row['policy'] if each['source'] or each['key'] in chosen])
    _tell_adopted(await _adopted(client, row['name']) - before)
    return EX_OK


def _policy(options: argparse.Namespace) -> dict[str, Variant]:
    """What the flags of enable say of the policy."""
    found = {}
    for name, key in POLICY_KEYS.items():
        if value := getattr(options, key.field):
            found[name] = strings(value) if key.type == 'as' else string(value)
    return found


async def disable(client: Client, options: argparse.Namespace) -> int:
    chosen = {'runtime': boolean(True)} if options.runtime else {}
    row = await client.call('DisableWithOptions', 'sa{sv}', options.target, chosen)
    draining = f' ({row["detail"]})' if row['draining'] else ''
    print(f'Disabled "{row["name"]}": its connections go on by TCP{draining}.')
    return EX_OK


async def reload(client: Client, _options: argparse.Namespace) -> int:
    await client.call('Reload')
    return EX_OK


async def targets(client: Client, options: argparse.Namespace) -> int:
    rows = await client.call('ListTargets')
    if options.json:
        show.print_json(rows)
    elif options.names:
        for row in rows:
            print(row['name'])
    else:
        printing.targets(rows)
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
        # For scripts a line is a name and a number.
        meanings = await _meanings(client) if show.is_terminal() else {}
        shown = [
            [name, str(value), meanings.get(name, '')] for name, value in values.items() if value or options.all
        ]
        for line in show.table(shown):
            print(line)
        if not shown and show.is_terminal():
            print('Nothing was counted; --all shows the zeros.')
    if options.reset:
        await client.call('ResetCounters', 's', options.target or '')
    return EX_OK


async def _meanings(client: Client) -> dict[str, str]:
    """The sentence of each counter, by its name in Stats."""
    return {
        row['name'] if row['kind'] == 'total' else f'{row["kind"]}_reason_{row["name"]}': row['sentence']
        for row in await client.call('DescribeCounters')
    }


async def live(client: Client, options: argparse.Namespace) -> int:
    await top.run(client, options.interval, options.count)
    return EX_OK


async def trace(client: Client, options: argparse.Namespace) -> int:
    sentences = {row['name']: row['sentence'] for row in await client.call('DescribeCounters')}
    before = await client.call('Stats')
    names = ('target', 'kind', 'reason', 'program', 'port')
    events = await client.subscribe(_chosen(options, names))
    print('Following what happens to connections; Ctrl-C ends.', file=sys.stderr, flush=True)
    # What is to be added to time_ns, which is CLOCK_MONOTONIC, for the time of day.
    offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    try:
        async for event in events:
            if 'lost' in event:
                print(
                    f'{event["lost"]} events were lost: they came faster than they were printed.', file=sys.stderr
                )
            elif options.json:
                print(json.dumps(event), flush=True)
            else:
                when = datetime.fromtimestamp((event['time_ns'] + offset) / 1e9).astimezone()
                print(show.event(event, f'{when:%H:%M:%S.%f}', sentences), flush=True)
    except asyncio.CancelledError:
        after = await client.call('Stats')
        if left_out := sum(after[name] - before[name] for name in ('events_suppressed', 'events_lost')):
            print(f'{left_out} events were left out, see EventsPerSecond= in sockaccel.conf(5).', file=sys.stderr)
        raise
    raise NotRunning('the sockaccel daemon has stopped', 'start it with: systemctl start sockaccel')


def _chosen(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Variant]:
    """A filter for the daemon: those of the options that were given."""
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return {name: integer(value) if isinstance(value, int) else string(value) for name, value in given.items()}


async def doctor(client: Client, options: argparse.Namespace) -> int:
    findings = await client.call('ListFindings')
    if options.json:
        show.print_json(findings)
    else:
        printing.findings(findings)
    return EX_REFUSED if any(row['severity'] == 'issue' for row in findings) else EX_OK


async def programs(client: Client, options: argparse.Namespace) -> int:
    if options.forget is not None:
        await client.call('ForgetProgram', 's', options.forget)
        return EX_OK
    rows = await client.call('ListPrograms')
    if options.json:
        show.print_json(rows)
    else:
        printing.programs(rows)
    return EX_OK


async def configuration(client: Client, options: argparse.Namespace) -> int:
    printing.configuration(await client.call('ListConfiguration'), as_json=options.json)
    return EX_OK


def configuration_of_files(options: argparse.Namespace) -> int:
    """What a daemon that is started now would use."""
    try:
        rows = config.load(config.files()).rows()
    except InvalidConfiguration as exc:
        print(f'sockaccelctl: {exc}', file=sys.stderr)
        return EX_REFUSED
    print('sockaccelctl: the daemon is not running; this is what it would start with', file=sys.stderr)
    named = [dict(zip(('section', 'key', 'value', 'source'), row, strict=True)) for row in rows]
    printing.configuration(named, as_json=options.json)
    return EX_OK
