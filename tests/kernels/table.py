# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the section "Kernels" of docs/compatibility.md from what the guests measured:

python3 -m tests.kernels.table build/kernels docs/compatibility.md

What was not measured, a behaviour or a whole line of kernels, keeps what the document has.
"""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.conformance import results
from tests.conformance.catalogue import Behaviour, catalogue
from tests.conformance.differences import DIFFERENCES
from tests.conformance.results import Results
from tests.conformance.table import summary
from tests.kernels.archive import LINES

TITLE = '## Kernels'
NEWEST = 'newest'
# The first cells of rows that are no behaviour's, and what one shows that is like plain TCP.
RESULT, ALIKE, SAME = 'result', 'runs that are like plain TCP', 'same'
# Behaviours that have a row although no kernel differs, by how their names begin: a redirect cannot serve them,
# and only watchers keep a program from harm (docs/options.md).
ALWAYS = ('splice()', 'MSG_OOB', 'FIONREAD', 'MSG_ZEROCOPY', 'TCP_ZEROCOPY', 'io_uring: SEND_ZC', 'MSG_TRUNC')
# And those of the other guests of a line, by the end of their names in build/kernels.
OTHER_GUESTS = {
    'led': 'connections that are led to proxies',
    'pairs': 'network namespaces, adopted connections',
    'watched': 'readers that mix recv() and splice(), audits',
    'programs': "other people's programs",
}


@dataclass(frozen=True)
class Column:
    """What a kernel shows. name: version and release; cells: by the first cell of their rows."""

    name: str
    cells: dict[str, str]

    def is_of(self, line: str) -> bool:
        """Whether it is of a line of kernels; "newest" is one that is of no other line."""
        if line == NEWEST:
            return not any(self.is_of(other) for other in LINES if other != NEWEST)
        return self.name.startswith(f'{line}.')


class Guest:
    """What is left of one guest in build/kernels."""

    def __init__(self, directory: Path) -> None:
        told = json.loads((directory / 'summary.json').read_text())
        self.name = f'{told["version"]} ({told["release"]})'
        self.outcome: str = told['outcome']
        self.refusal = _text(directory / 'refusal')
        # As "sockaccel --check" prints them.
        self.findings = {
            name: sentence if severity == 'ok' else f'**{severity}:** {sentence}'
            for severity, name, sentence in re.findall(
                r'^(\w+) +(\w+): (.*)$', _text(directory / 'findings'), re.M
            )
        }
        ways = results.load(directory)
        self.plain: Results = ways.get('plain', {})
        self.accelerated: Results = ways.get('sockaccel', {})

    def column(self, earlier: Column | None = None) -> Column:
        """earlier: what the document has of this line of kernels."""
        stays = (*catalogue(), *OTHER_GUESTS.values())
        cells = {name: text for name, text in (earlier.cells if earlier else {}).items() if name in stays}
        cells |= {RESULT: self.result(), **{f'`{name}`': sentence for name, sentence in self.findings.items()}}
        if self.accelerated:
            cells[ALIKE] = f'{self.alike()} of {len(self.accelerated)}'
        for behaviour in catalogue().values():
            if any(case in self.accelerated for case in behaviour.cases()):
                cells[behaviour.name] = self.difference(behaviour) or SAME
        return Column(self.name, cells)

    def result(self) -> str:
        if self.refusal and self.outcome == 'passed':
            return f'refused, as it must be: {re.findall(r"^StatusText=(.*)$", self.refusal, re.M)[0]}'
        return self.outcome

    def difference(self, behaviour: Behaviour) -> str:
        """What is seen in place of what plain TCP shows, '' for nothing."""
        for case in behaviour.cases():
            if case in self.plain and case in self.accelerated:
                differing = results.differences(self.plain[case], self.accelerated[case])
                if differing:
                    return summary(self.accelerated[case], differing)
        return ''

    def alike(self) -> int:
        return sum(not results.differences(self.plain[case], result) for case, result in self.accelerated.items())


def with_others(column: Column, results_of_line: str) -> Column:
    """With how the other guests of its line ended. results_of_line: the path that their directories begin with."""
    ended = {
        name: json.loads(summary.read_text())['outcome']
        for end, name in OTHER_GUESTS.items()
        if (summary := Path(f'{results_of_line}-{end}', 'summary.json')).exists()
    }
    return replace(column, cells={**column.cells, **ended})


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ''


def columns_of(document: str) -> list[Column]:
    """Those that a document has."""
    rows = [
        [cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]]
        for line in document.partition(f'\n{TITLE}\n')[2].splitlines()
        if line.startswith('| ')
    ]
    if not rows:
        return []
    return [
        Column(name, {row[0]: row[number] for row in rows[1:] if row[number]})
        for number, name in enumerate(rows[0][1:], 1)
    ]


def section(columns: list[Column]) -> Iterator[str]:
    """The lines of the section."""
    yield TITLE
    yield ''
    yield (
        "The package on kernels of Debian's archive, in emulated machines, with real units and the quick part of "
        'the behaviours (IPv4, non-blocking readers), written by `tests/kernels/table.py`. These kernels take '
        'watchers. What has no row is like plain TCP on each of them. The number of runs is that of the '
        'last measurement of a kernel; what it left out stands as it was found before. A column without a '
        'sentence for `splice` is older than the watchers; an empty cell was not measured.'
    )
    findings = sorted({name for column in columns for name in column.cells if name.startswith('`')})
    differing = [
        behaviour.name
        for behaviour in catalogue().values()
        if any(column.cells.get(behaviour.name, SAME) != SAME for column in columns)
    ]
    shown = [name for name in catalogue() if name in differing or name.startswith(ALWAYS)]
    rows = [['', *(column.name for column in columns)]]
    others = [name for name in OTHER_GUESTS.values() if any(name in column.cells for column in columns)]
    rows += [
        [name, *(column.cells.get(name, '') for column in columns)]
        for name in (RESULT, *others, *findings, ALIKE, *shown)
    ]
    yield ''
    for index, row in enumerate(rows):
        yield '| ' + ' | '.join(row) + ' |'
        if index == 0:
            yield '|---' * len(row) + '|'
    yield ''
    yield 'What to do about these differences:'
    yield ''
    for name in differing:
        yield f'* {name}. {_advice(name, columns)}'


def _advice(name: str, columns: list[Column]) -> str:
    differing = [column for column in columns if column.cells.get(name, SAME) != SAME]
    if any('`splice`' in column.cells for column in differing):
        otherwise = 'This is a fault of sockaccel.'
    else:
        otherwise = 'Seen before there were watchers, and on no kernel that was measured since.'
    return next((each.advice for each in DIFFERENCES if each.behaviour == name), otherwise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('results', type=Path, help='what make test-kernels left, a directory for each line')
    parser.add_argument('document', type=Path, help='the document whose section is written anew')
    options = parser.parse_args()
    document = options.document.read_text()
    earlier = columns_of(document)
    columns = []
    for line in LINES:
        known = next((column for column in earlier if column.is_of(line)), None)
        measured = options.results / line
        if (measured / 'summary.json').exists():
            known = Guest(measured).column(known)
        if known:
            columns.append(with_others(known, str(measured)))
    before = document.partition(f'\n{TITLE}\n')[0].rstrip('\n')
    options.document.write_text(f'{before}\n\n' + '\n'.join(section(columns)) + '\n')


if __name__ == '__main__':
    main()
