# SPDX-License-Identifier: GPL-2.0-or-later
"""The live view of sockaccelctl: rates since the frame before, redrawn in place."""

import asyncio
import contextlib
import os
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sockaccel.core.listing import Filter
from sockaccel.ctl import listing, show
from sockaccel.ctl.client import Client, Refused

# xterm's control sequences: alternate screen and cursor; home, clear to the end of line and of screen.
_ENTER, _LEAVE = '\x1b[?1049h\x1b[?25l', '\x1b[?25h\x1b[?1049l'
_HOME, _CLEAR_LINE, _CLEAR_REST = '\x1b[H', '\x1b[K', '\x1b[J'

_RATES = {
    'redirected': 'redirected_bytes',
    'tcp': 'tcp_bytes',
    'messages': 'redirected_messages',
    'connections': 'connections',
}
# Its rate, and of the columns those that fit into 80.
_COLUMNS = 4
_SACRIFICES = (((1, 2), 10), ((4,), 8))
# Of all connections those that have sent most.
_WATCHED = 256


@dataclass
class Sample:
    """What the daemon said at one time. time: seconds, monotonic. targets: by name, the state and the counters."""

    time: float = 0.0
    stats: dict[str, int] = field(default_factory=dict)
    targets: dict[str, tuple[str, dict[str, int]]] = field(default_factory=dict)
    connections: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    total: int = 0


async def sample(client: Client) -> Sample:
    """Raises what a call raises."""
    now = Sample(time.monotonic(), await client.call('Stats'))
    for row in await client.call('ListTargets'):
        stats = {}
        # It may have been disabled since.
        with contextlib.suppress(Refused):
            stats = await client.call('TargetStats', 's', row['name'])
        now.targets[row['name']] = (row['state'], stats)
    rows, now.total = await listing.busiest(client, Filter(), _WATCHED)
    for row in rows:
        now.connections[_key(row)] = row
    return now


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ('netns_cookie', 'client_address', 'client_port', 'server_address', 'server_port')
    return tuple(row[name] for name in names)


def frame(before: Sample, now: Sample, columns: int, lines: int) -> list[str]:
    """The lines of one picture, no wider than columns and no more than lines."""
    seconds = max(now.time - before.time, 0.001)
    rates = {
        title: max(0, now.stats[name] - before.stats.get(name, now.stats[name])) / seconds
        for title, name in _RATES.items()
    }
    out = [
        show.cut(
            f'sockaccel  {now.total} connections, {rates["connections"]:.0f} new/s   '
            f'redirected {show.size(rates["redirected"])}/s in {rates["messages"]:.0f} msg/s   '
            f'TCP {show.size(rates["tcp"])}/s',
            columns,
        ),
        '',
    ]
    rows = [['TARGET', 'STATE', 'REDIRECTED/s', 'TCP/s', 'SHARE']]
    for name, (state, stats) in now.targets.items():
        old = before.targets.get(name, ('', stats))[1]
        redirected, tcp = (
            max(0, stats.get(counter, 0) - old.get(counter, 0)) for counter in ('redirected_bytes', 'tcp_bytes')
        )
        total = redirected + tcp
        share = f'{100 * redirected / total:.0f} %' if total else '-'
        rows.append([name, state, show.size(redirected / seconds), show.size(tcp / seconds), share])
    out += show.table(rows, columns=columns, styles=['bold'])
    if not now.targets:
        out.append('no targets; add one with: sockaccelctl enable UNIT')
    out.append('')
    busiest = sorted(
        ((_moved(row) - _moved(before.connections.get(key, row)), row) for key, row in now.connections.items()),
        key=lambda pair: -pair[0],
    )
    cells = [['BYTES/s', *show.CONNECTION_COLUMNS[:_COLUMNS]]]
    cells += [[show.size(moved / seconds), *show.connection(row)[:_COLUMNS]] for moved, row in busiest]
    styles = ['bold', *(show.path_style(row) for _moved_bytes, row in busiest)]
    cells = cells[: max(1, lines - len(out))]
    widths = show.fitted(show.widths([len(cell) for cell in row] for row in cells), columns, _SACRIFICES)
    out += [show.styled(show.line(row, widths), style) for row, style in zip(cells, styles, strict=False)]
    return out[:lines]


def _moved(row: dict[str, Any]) -> int:
    return sum(int(row[f'{end}_{path}_bytes']) for end in ('client', 'server') for path in ('redirected', 'tcp'))


async def run(client: Client, interval: float, count: int | None) -> None:
    """Until q is typed, or after `count` frames; without a terminal frame after frame, as text.

    interval: seconds. Raises what a call raises.
    """
    before = await sample(client)
    if not (show.is_terminal() and sys.stdin.isatty()):
        for number in range(count or 1):
            await asyncio.sleep(interval)
            now = await sample(client)
            print('\n'.join([*([''] if number else []), *frame(before, now, 1000, 1000)]), flush=True)
            before = now
        return
    with _screen():
        typed = _Keys()
        shown, interval_now = 0, min(interval, 0.3)
        while count is None or shown < count:
            # The first picture should not take a whole interval.
            if await typed.quit_within(interval_now):
                return
            now = await sample(client)
            size = shutil.get_terminal_size()
            lines = [*frame(before, now, size.columns, size.lines - 1), '']
            last = show.styled('q quits', 'dim')
            picture = ''.join(f'{line}{_CLEAR_LINE}\n' for line in lines[:-1])
            sys.stdout.write(f'{_HOME}{picture}{last}{_CLEAR_LINE}{_CLEAR_REST}')
            sys.stdout.flush()
            before, interval_now, shown = now, interval, shown + 1


class _Keys:
    """What is typed, without Enter."""

    def __init__(self) -> None:
        self._quit = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._read)

    def _read(self) -> None:
        typed = os.read(sys.stdin.fileno(), 64)
        # q, end of file, Ctrl-C and Ctrl-D of a terminal that does not turn them into signals.
        if not typed or set(typed) & set(b'qQ\x03\x04'):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self._quit.set()

    async def quit_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._quit.wait(), seconds)
        return self._quit.is_set()


@contextlib.contextmanager
def _screen() -> Iterator[None]:
    """The terminal as a picture; as it was before on every way out."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write(_ENTER)
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
