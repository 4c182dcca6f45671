# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of kernels keeps the columns of those that were not measured anew."""

import json
from pathlib import Path

from tests.kernels import archive
from tests.kernels.table import NEWEST, OTHER_GUESTS, RESULT, TITLE, Column, columns_of, section, with_others
from tests.support.harness import ROOT

DOCUMENT = (ROOT / 'docs' / 'compatibility.md').read_text()


def test_what_is_not_measured_stays() -> None:
    columns = columns_of(DOCUMENT)
    assert [RESULT in column.cells for column in columns] == [True] * len(archive.LINES)
    written = f'\n{TITLE}\n' + '\n'.join(section(columns)) + '\n'
    assert columns_of(written.replace(f'{TITLE}\n{TITLE}', TITLE)) == columns
    assert columns_of('# Nothing yet\n') == []


def test_each_line_has_a_column() -> None:
    found = {
        line: [column.name for column in columns_of(DOCUMENT) if column.is_of(line)] for line in archive.LINES
    }
    assert all(len(names) == 1 for names in found.values()), found
    assert Column('6.1.9-1 (x)', {}).is_of('6.1')
    assert not Column('6.12.9-1 (x)', {}).is_of('6.1')
    assert Column('7.3.4-1 (x)', {}).is_of(NEWEST)
    assert not Column('6.18.1-1 (x)', {}).is_of(NEWEST)


def test_how_the_other_guests_of_a_line_ended(tmp_path: Path) -> None:
    (tmp_path / '6.1-pairs').mkdir()
    (tmp_path / '6.1-pairs' / 'summary.json').write_text(json.dumps({'outcome': 'failed'}))
    column = Column('6.1.9-1 (x)', {RESULT: 'passed', OTHER_GUESTS['programs']: 'passed'})
    found = with_others(column, str(tmp_path / '6.1'))
    assert found.cells == {**column.cells, OTHER_GUESTS['pairs']: 'failed'}
    assert columns_of(f'\n{TITLE}\n' + '\n'.join(section([found])) + '\n') == [found]
