# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands that lead connections of a target to a proxy, and no more."""

import argparse
import sys

from sockaccel.ctl import printing, show
from sockaccel.ctl.client import Client, short, string, strings
from sockaccel.ctl.exits import EX_OK, EX_USAGE
from sockaccel.ctl.printing import Row
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
    tell(row)
    return EX_OK


async def release(client: Client, options: argparse.Namespace) -> int:
    await client.call('Release', 's', options.target)
    print(show.wrapped(f'"{options.target}" is led no more: new connections, also those to it, go direct.', '  '))
    return EX_OK


def tell(row: Row) -> None:
    """What is led from now on, a line for each port of the proxy."""
    print(show.wrapped(f'"{row["target"]}" is led to "{row["proxy"]}" ({row["state"]}: {row["detail"]}).', '  '))
    if row['outbound']:
        print(f'  connections that it makes: to port {row["outbound"]}')
    for pair in row['inbound']:
        port, _sign, to = pair.partition('=')
        print(f'  connections to its port {port}: to port {to}')
    down = 'are refused' if row['when_down'] == 'refuse' else 'go direct'
    print(f'While the proxy does not listen they {down}.')


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
