# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of kernels keeps the columns of those that were not measured anew."""

from tests.kernels import archive
from tests.kernels.table import NEWEST, RESULT, TITLE, Column, columns_of, section
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
