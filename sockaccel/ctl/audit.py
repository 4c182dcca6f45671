# SPDX-License-Identifier: GPL-2.0-or-later
"""`sockaccelctl audit`: what the daemon saw of a target, and what acceleration would change."""

import argparse
import sys
from typing import Any

from sockaccel.ctl import show
from sockaccel.ctl.client import Client, count
from sockaccel.ctl.exits import EX_OK

Row = dict[str, Any]


async def audit(client: Client, options: argparse.Namespace) -> int:
    print(f'Watching "{options.target}" for {options.seconds} s; nothing is changed.', file=sys.stderr, flush=True)
    chosen = {'seconds': count(options.seconds)}
    report = await client.wait_for(options.seconds, 'Audit', 'sa{sv}', options.target, chosen)
    if options.json:
        show.print_json(report)
    else:
        _print(report)
    return EX_OK


def _print(report: Row) -> None:
    for sentence in report['summary']:
        print(show.wrapped(sentence, ''))
    if report['command']:
        print(f'To enable it:\n\n  {report["command"]}')
    for exchange in report['exchanges']:
        print()
        print(show.styled(_title(exchange), 'bold'))
        print(show.wrapped(f'  {exchange["sentence"]}', '  '))
    if report['more']:
        print(f'\n… and {report["more"]} more that carried less.')
    if report['connections']:
        print()
        for sentence in report['unseen']:
            print(show.wrapped(sentence, ''))


def _title(exchange: Row) -> str:
    connections = f'{exchange["connections"]} connection{"" if exchange["connections"] == 1 else "s"}'
    carried = ', '.join(f'{show.size(exchange[f"to_{end}_bytes"])} to the {end}' for end in ('server', 'client'))
    client, server = (exchange[end] or _elsewhere(exchange) for end in ('client', 'server'))
    return f'{client} -> {server} (port {exchange["port"]}): {connections}, {carried}; {exchange["manner"]}'


def _elsewhere(exchange: Row) -> str:
    return '?' if exchange['local'] else 'another host'
