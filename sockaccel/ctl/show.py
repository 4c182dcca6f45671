# SPDX-License-Identifier: GPL-2.0-or-later
"""How sockaccelctl shows things on a terminal or in a pipe: sizes, tables, colours."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from sockaccel.core.connection import endpoint

# ECMA-48, select graphic rendition
_STYLES = {'bold': '1', 'dim': '2', 'red': '31', 'green': '32', 'yellow': '33'}
_PATH_STYLES = {'redirect': 'green', 'mixed': 'yellow', 'tcp': 'yellow'}
_EVENT_STYLES = {
    'joined': 'green', 'refused': 'yellow', 'fallback': 'yellow', 'evicted': 'yellow', 'broken': 'red',
}  # fmt: skip
STATE_STYLES = {
    'active': 'green', 'waiting': 'yellow', 'draining': 'yellow', 'probation': 'yellow', 'refused': 'red',
}  # fmt: skip
_GAP = '  '
SEVERITY_STYLES = {'ok': 'green', 'note': 'yellow', 'issue': 'red'}


def is_terminal() -> bool:
    return sys.stdout.isatty()


def width() -> int:
    """Columns to fill; a pipe gets as many as a line needs."""
    return shutil.get_terminal_size().columns if is_terminal() else 1000


def height() -> int:
    """Lines to fill; a pipe gets as many as there are."""
    return shutil.get_terminal_size().lines if is_terminal() else 1000


def styled(text: str, style: str) -> str:
    """In colour, on a terminal whose user has not set NO_COLOR (no-color.org)."""
    if not style or not is_terminal() or os.environ.get('NO_COLOR') or os.environ.get('TERM') == 'dumb':
        return text
    return f'\x1b[{_STYLES[style]}m{text}\x1b[0m'


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, min(width(), 100), subsequent_indent=indent)


def size(count: float) -> str:
    for unit in ('B', 'K', 'M', 'G'):
        if count < 1024:
            return f'{count:.0f}{unit}' if unit == 'B' else f'{count:.1f}{unit}'
        count /= 1024
    return f'{count:.1f}T'


def duration(nanoseconds: int) -> str:
    seconds = nanoseconds // 1_000_000_000
    for unit, length in (('d', 86400), ('h', 3600), ('m', 60)):
        if seconds >= length:
            return f'{seconds // length}{unit}'
    return f'{seconds}s'


def share(redirected: int, tcp: int) -> str:
    """How much of the bytes was redirected."""
    if not redirected + tcp:
        return 'nothing sent yet'
    return f'{100 * redirected / (redirected + tcp):.1f} % redirected'


def table(rows: Iterable[Sequence[str]], *, columns: int | None = None, styles: Sequence[str] = ()) -> list[str]:
    """Lines with aligned columns, two spaces apart, cut at a number of columns. styles: per row."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for number, row in enumerate(cells):
        line = '  '.join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
        line = cut(line, columns or width())
        lines.append(styled(line, styles[number]) if number < len(styles) else line)
    return lines


def cut(line: str, columns: int) -> str:
    return line if len(line) <= columns else line[: columns - 1] + '…'


def widths(rows: Iterable[Sequence[int]]) -> list[int]:
    """The widest of each column."""
    return [max(column) for column in zip(*rows, strict=True)]


# Columns that are shortened together, the widest of them first, and to what: 0 leaves a column out.
Sacrifices = Sequence[tuple[Sequence[int], int]]


def fitted(wanted: Sequence[int], columns: int, sacrifices: Sacrifices) -> list[int]:
    """Widths with which a line has no more than so many columns, if the sacrifices are enough for that."""
    found = list(wanted)
    for group, least in sacrifices:
        while _line_width(found) > columns:
            widest = max(group, key=found.__getitem__)
            if found[widest] <= least:
                break
            found[widest] = found[widest] - 1 if least else 0
    return found


def line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Cells side by side. One that is too long loses its beginning: the port and the program stand at the end."""
    shown = []
    for cell, wide in zip(cells, widths, strict=True):
        if wide:
            shown.append(cell.ljust(wide) if len(cell) <= wide else '…' + cell[len(cell) - wide + 1 :])
    return _GAP.join(shown).rstrip()


def _line_width(widths: Sequence[int]) -> int:
    shown = [wide for wide in widths if wide]
    return sum(shown) + len(_GAP) * (len(shown) - 1)


CONNECTION_COLUMNS = ('CLIENT', 'SERVER', 'PATH', 'WHY', 'TO SERVER', 'TO CLIENT', 'AGE')
# Addresses, then the age, then the reason: how many bytes went where remains.
CONNECTION_SACRIFICES = (((0, 1), 10), ((6,), 0), ((3,), 8))


def connection(row: dict[str, Any]) -> list[str]:
    """A row of ListConnections under CONNECTION_COLUMNS."""
    return [
        *(_end(row, name) for name in ('client', 'server')),
        row['path'],
        why(row),
        *(size(row[f'{name}_redirected_bytes'] + row[f'{name}_tcp_bytes']) for name in ('client', 'server')),
        duration(row['age_ns']),
    ]


def event(row: dict[str, Any], when: str, sentences: dict[str, str]) -> str:
    """An event as a line. sentences: what each reason means."""
    local, remote = (endpoint(row[side], row[f'{side}_port']) for side in ('local', 'remote'))
    end = 'client' if row['active'] else 'server'
    parts = [when, f'{row["kind"]:8}', end, f'{local} -> {remote}']
    if row['program']:
        parts.append(f'{row["program"]}[{row["pid"]}]')
    if row['reason']:
        parts.append(f'{row["reason"]}: {sentences.get(row["reason"], "")}')
    if row['kind'] == 'closed':
        parts.append(f'sent {size(row["redirected_bytes"])} redirected, {size(row["tcp_bytes"])} by TCP')
    return styled('  '.join(parts), _EVENT_STYLES.get(row['kind'], ''))


def path_style(row: dict[str, Any]) -> str:
    return _PATH_STYLES.get(row['path'], '')


def why(row: dict[str, Any]) -> str:
    """Why a connection is not redirected in one direction or both."""
    to_server, to_client = row['client_reason'], row['server_reason']
    if to_server == to_client:
        return str(to_server) or ('' if row['state'] == 'joined' else row['state'])
    return ', '.join(
        f'{reason} {where}' for reason, where in ((to_server, 'to server'), (to_client, 'to client')) if reason
    )


def _end(row: dict[str, Any], name: str) -> str:
    shown = endpoint(row[f'{name}_address'], row[f'{name}_port'])
    shown = f'{shown} {row[f"{name}_program"]}'.rstrip()
    if name == 'server' and row['origin_address']:
        shown += f' for {endpoint(row["origin_address"], row["origin_port"])}'
    return shown
