# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the section "Kernels" of docs/compatibility.md from what the guests measured:

python3 -m tests.kernels.table build/kernels docs/compatibility.md
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conformance import results
from tests.conformance.catalogue import Behaviour, catalogue
from tests.conformance.results import Results
from tests.conformance.table import summary
from tests.kernels.archive import LINES

TITLE = '## Kernels'


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


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ''


def section(guests: list[Guest]) -> Iterator[str]:
    """The lines of the section."""
    yield TITLE
    yield ''
    yield (
        "The package on kernels of Debian's archive, in emulated machines, with real units and the quick part of "
        'the behaviours (IPv4, non-blocking readers), written by `tests/kernels/table.py`. Where no difference is '
        'named, sockaccel is like plain TCP on that kernel.'
    )
    rows = [
        ['', *(guest.name for guest in guests)],
        ['result', *(guest.result() for guest in guests)],
    ]
    for name in sorted({name for guest in guests for name in guest.findings}):
        rows.append([f'`{name}`', *(guest.findings.get(name, '') for guest in guests)])
    rows.append(
        [
            'runs that are like plain TCP',
            *(f'{guest.alike()} of {len(guest.accelerated)}' if guest.accelerated else '' for guest in guests),
        ]
    )
    for behaviour in catalogue().values():
        cells = [guest.difference(behaviour) for guest in guests]
        if any(cells):
            measured = [any(case in guest.accelerated for case in behaviour.cases()) for guest in guests]
            rows.append(
                [
                    behaviour.name,
                    *(cell or ('same' if of else '') for cell, of in zip(cells, measured, strict=True)),
                ]
            )
    yield ''
    for index, row in enumerate(rows):
        yield '| ' + ' | '.join(row) + ' |'
        if index == 0:
            yield '|---' * len(row) + '|'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('results', type=Path, help='what make test-kernels left, a directory for each line')
    parser.add_argument('document', type=Path, help='the document whose section is written anew')
    options = parser.parse_args()
    guests = [
        Guest(options.results / line) for line in LINES if (options.results / line / 'summary.json').exists()
    ]
    before = options.document.read_text().partition(f'\n{TITLE}\n')[0].rstrip('\n')
    options.document.write_text(f'{before}\n\n' + '\n'.join(section(guests)) + '\n')


if __name__ == '__main__':
    main()
