# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands of sockaccelctl print for people. Rows are those of org.sockaccel1(5)."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sockaccel.ctl import show

Row = dict[str, Any]


def targets(rows: list[Row]) -> None:
    print('\n'.join(target_lines(rows)))


def target_lines(rows: list[Row]) -> list[str]:
    if not rows:
        return ['No targets; add one with: sockaccelctl enable UNIT']
    cells = [['TARGET', 'STATE', 'DETAIL'], *([row['name'], row['state'], row['detail']] for row in rows)]
    styles = ['bold', *(show.STATE_STYLES.get(row['state'], '') for row in rows)]
    title, *lines = show.table(cells, styles=styles)
    found = [title]
    for row, line in zip(rows, lines, strict=True):
        found += [line, *_policy_lines([each for each in row['policy'] if each['source']], '  ')]
    return found


# The names of an interception are shortened before its numbers are cut off.
_SACRIFICED_NAMES = (((0, 1), 16),)


def interceptions(rows: Sequence[Row]) -> None:
    print('\n'.join(interception_lines(rows)))


def interception_lines(rows: Sequence[Row]) -> list[str]:
    """What is led to proxies; the detail of each below it."""
    cells = [['LED TARGET', 'PROXY', 'STATE', 'LED', 'REFUSED', 'DIRECT']]
    styles = ['bold']
    for row in rows:
        counts, is_down = row['counters'], row['proxy_is_down']
        direct = sum(counts[name] for name in ('excepted', 'own_listener', 'bypassed', 'bypassed_in', 'mptcp'))
        ways = [str(row['outbound'])] if row['outbound'] else []
        proxy = f'{row["proxy"]} port {", ".join(ways + row["inbound"])}'
        led, refused = counts['led'] + counts['led_in'], counts['proxy_down'] + counts['proxy_down_in']
        numbers = [str(number) for number in (led, refused, direct)]
        cells.append([row['target'], proxy, 'proxy down' if is_down else row['state'], *numbers])
        styles.append('red' if is_down else show.STATE_STYLES.get(row['state'], ''))
    wanted = show.widths([[len(cell) for cell in row] for row in cells])
    fitted = show.fitted(wanted, show.width(), _SACRIFICED_NAMES)
    found = []
    for cell, style, detail in zip(cells, styles, ['', *(row['detail'] for row in rows)], strict=True):
        found.append(show.styled(show.line(cell, fitted), style))
        if detail:
            found.append(show.cut(f'  {detail}', show.width()))
    return found


class ConnectionTable:
    """Lines for rows of connections, which need not be known all at once."""

    def __init__(self, indent: str = '') -> None:
        self._indent = indent
        self._widths = [len(title) for title in show.CONNECTION_COLUMNS]
        self._has_titles = False

    def lines(self, rows: list[Row]) -> Iterator[str]:
        """No column becomes narrower than it was for earlier rows."""
        if not rows:
            return
        cells = [show.connection(row) for row in rows]
        styles = list(map(show.path_style, rows))
        if not self._has_titles:
            cells, styles = [list(show.CONNECTION_COLUMNS), *cells], ['bold', *styles]
            self._has_titles = True
        self._widths = show.widths([self._widths, *([len(cell) for cell in row] for row in cells)])
        fitted = show.fitted(self._widths, show.width() - len(self._indent), show.CONNECTION_SACRIFICES)
        for row, style in zip(cells, styles, strict=True):
            yield self._indent + show.styled(show.line(row, fitted), style)


def findings(rows: list[Row]) -> None:
    for row in rows:
        word = show.styled(f'{row["severity"].upper():5}', show.SEVERITY_STYLES.get(row['severity'], ''))
        print(word + show.wrapped(f'       {row["name"]}: {row["sentence"]}', '       ')[5:])
        if row['severity'] == 'issue':
            print('       to enable a target in spite of it:')
            print(f'         sockaccelctl enable --accept {row["name"]} TARGET')


def programs(rows: list[Row]) -> None:
    if not rows:
        print('No program is known: programs.conf names none, and none was seen.')
        return
    cells = [['PROGRAM', 'LEFT TO TCP', 'SINCE', 'WHY']]
    for row in rows:
        when = f'{datetime.fromtimestamp(row["since"]).astimezone():%Y-%m-%d %H:%M}' if row['since'] else 'listed'
        cells.append([row['name'], 'yes' if row['in_force'] else 'no', when, row['why']])
    styles = ['bold', *('' if row['in_force'] else 'dim' for row in rows)]
    for line in show.table(cells, styles=styles):
        print(line)
    if not all(row['in_force'] for row in rows):
        sentence = 'no: on this kernel sockaccel sees for itself what they do, or it does no harm.'
        print(show.styled(sentence, 'dim'))


def configuration(rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        show.print_json(rows)
        return
    for number, section in enumerate(dict.fromkeys(row['section'] for row in rows)):
        if number:
            print()
        print(show.styled(f'[{section}]', 'bold'))
        policy([row for row in rows if row['section'] == section and row['key']])


def policy(rows: list[Row]) -> None:
    for line in _policy_lines(rows):
        print(line)


def _policy_lines(rows: list[Row], indent: str = '') -> list[str]:
    """Keys with their values, and where each is from, which is there in any case: a long list is cut."""
    if not rows:
        return []
    sources = [f'# {row["source"] or "default"}' for row in rows]
    values = [f'{row["key"]}={row["value"]}' for row in rows]
    most = max(show.width() - len(indent) - 2 - max(map(len, sources)), 24)
    cells = [(indent + show.cut(value, most), source) for value, source in zip(values, sources, strict=True)]
    return show.table(cells, styles=['' if row['source'] else 'dim' for row in rows])
