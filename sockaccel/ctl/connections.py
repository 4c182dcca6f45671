# SPDX-License-Identifier: GPL-2.0-or-later
"""The command "connections": the busiest, or all as they are read, for people or as JSON."""

import argparse
import gc
import json
from collections.abc import Iterable
from typing import Protocol

from sockaccel.core.ends import Pair
from sockaccel.core.listing import Filter
from sockaccel.core.rows import KEYS, Row, Wording, values
from sockaccel.ctl import listing, printing, show
from sockaccel.ctl.client import Client
from sockaccel.ctl.exits import EX_OK
from sockaccel.ctl.listing import Listing

_FILTERS = ('target', 'path', 'port', 'address', 'program', 'pid', 'reason')


class _Printer(Protocol):
    def add(self, seen: Listing, pairs: list[Pair]) -> None: ...

    def end(self, total: int) -> None: ...


async def connections(client: Client, options: argparse.Namespace) -> int:
    """Raises InvalidArgument, and what `listing.parts` raises."""
    wanted = Filter.parse(
        {name: getattr(options, name) for name in _FILTERS if getattr(options, name) is not None}
    )
    # Nothing of it refers to itself, and the collector would look at millions of objects again and again.
    gc.disable()
    printer: _Printer = _Json() if options.json else _Text(await client.call('DescribeCounters'), wanted)
    total = 0
    if options.limit:
        seen, pairs, total = await listing.busiest_pairs(client, wanted, options.limit)
        printer.add(seen, pairs)
    else:
        async for seen, pairs in listing.parts(client, wanted):
            printer.add(seen, pairs)
            total += len(pairs)
    printer.end(total)
    return EX_OK


class _Json:
    """An array with a row in each line, which can be printed before all rows are known."""

    # Words are few, and become JSON once. An encoder that looked at each key and value of 100,000 rows would take
    # seconds.
    _line = '{{' + ', '.join(f'"{key}": {{}}' for key in KEYS) + '}}'

    def __init__(self) -> None:
        self._before = '['
        self._wording: Wording | None = None

    def add(self, seen: Listing, pairs: list[Pair]) -> None:
        """seen: the same each time."""
        if not pairs:
            return
        wording = self._wording = self._wording or Wording(seen, json.dumps)
        line, now = self._line.format, seen.time_ns
        lines = ',\n'.join([line(*values(pair, wording, now)) for pair in pairs])
        print(f'{self._before}\n{lines}', end='', flush=True)
        self._before = ','

    def end(self, _total: int) -> None:
        print('[]' if self._before == '[' else '\n]')


class _Text:
    """counters: rows of DescribeCounters."""

    def __init__(self, counters: Iterable[Row], wanted: Filter) -> None:
        self._sentences = {counter['name']: counter['sentence'] for counter in counters}
        self._is_filtered = wanted != Filter()
        self._table = printing.ConnectionTable()
        self._reasons: set[str] = set()
        self._shown = 0

    def add(self, seen: Listing, pairs: list[Pair]) -> None:
        rows = list(map(seen.row, pairs))
        if rows:
            print('\n'.join(self._table.lines(rows)), flush=True)
        self._shown += len(rows)
        self._reasons.update(row[f'{end}_reason'] for row in rows for end in ('client', 'server'))

    def end(self, total: int) -> None:
        if self._shown < total:
            print(f'… and {total - self._shown} more, see --limit')
        for name, sentence in self._sentences.items():
            if name in self._reasons:
                print(show.styled(show.cut(f'{name}: {sentence}', show.width()), 'dim'))
        if not total and show.is_terminal():
            print(
                'No connection of a target is like that.' if self._is_filtered else 'No target has a connection.'
            )
