# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands that lead connections of a target to a proxy, and no more."""

import argparse
import sys

from sockaccel.ctl import printing, show
from sockaccel.ctl.client import Client, short, string, strings
from sockaccel.ctl.exits import EX_OK, EX_USAGE
from sockaccel.dbus.message import Variant

_LISTS = {
    'inbound': 'inbound',
    'except_ports': 'except_port',
    'except_addresses': 'except',
    'except_users': 'except_user',
}


async def intercept(client: Client, options: argparse.Namespace) -> int:
    if options.target is None:
        return await _list(client, options)
    if options.proxy is None:
        print('sockaccelctl: name the proxy: --proxy PROXY', file=sys.stderr)
        return EX_USAGE
    row = await client.call('Intercept', 'ssa{sv}', options.target, options.proxy, _chosen(options))
    if options.json:
        show.print_json(row)
        return EX_OK
    down = 'refused' if row['when_down'] == 'refuse' else 'direct'
    ways = [f'that "{row["target"]}" makes from now on are led to "{row["proxy"]}", port {row["outbound"]}']
    if not row['outbound']:
        ways = []
    for pair in row['inbound']:
        port, _sign, to = pair.partition('=')
        ways.append(f'to port {port} of "{row["target"]}" are led to "{row["proxy"]}", port {to}')
    print(
        f'The connections {"; those ".join(ways)} ({row["state"]}: {row["detail"]}). While the proxy does not '
        f'listen they are {down}.'
    )
    return EX_OK


async def release(client: Client, options: argparse.Namespace) -> int:
    await client.call('Release', 's', options.target)
    print(f'The connections that "{options.target}" makes, and those to it, go direct from now on.')
    return EX_OK


async def _list(client: Client, options: argparse.Namespace) -> int:
    rows = await client.call('ListInterceptions')
    if options.json:
        show.print_json(rows)
    elif rows:
        printing.interceptions(rows)
    elif show.is_terminal():
        print('Nothing is led to a proxy.')
    return EX_OK


def _chosen(options: argparse.Namespace) -> dict[str, Variant]:
    """The options that were given, for the daemon."""
    given = {name: getattr(options, attribute) for name, attribute in _LISTS.items()}
    chosen = {name: strings(values) for name, values in given.items() if values}
    if options.outbound is not None:
        chosen['outbound'] = short(options.outbound)
    if options.when_down is not None:
        chosen['when_down'] = string(options.when_down)
    return chosen
