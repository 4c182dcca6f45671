# SPDX-License-Identifier: GPL-2.0-or-later
"""What "connections --json" prints is what a JSON encoder would."""

import json

import pytest

from sockaccel.core.ends import Pair
from sockaccel.ctl.connections import _Json
from sockaccel.ctl.listing import Listing
from sockaccel.kernel.abi import COUNTERS
from sockaccel.kernel.ends import Ends
from tests.support.memory_kernel import packed_ends

AWKWARD = '/100% "quoted" \\ %s\n\x1b é'


def listing() -> Listing:
    """With names that have what JSON must escape, and what stands in Python's formats."""
    layout, reasons = Ends(lambda: iter(())).layout, [counter.name for counter in COUNTERS]
    return Listing(layout, reasons, 1 << 60, programs=True, targets={1: AWKWARD}, led={3: (AWKWARD, 80)})


def pairs() -> list[Pair]:
    """The second is adopted, and in the third one end is unknown."""
    ends = list(listing().layout.ends(packed_ends(3)))
    return [(ends[0], ends[1]), (ends[2]._replace(flags=3, marked=1), ends[3]), (None, ends[5])]


def printed(capsys: pytest.CaptureFixture[str], *parts: list[Pair]) -> str:
    printer, seen = _Json(), listing()
    for part in parts:
        printer.add(seen, part)
    printer.end(sum(map(len, parts)))
    return capsys.readouterr().out


def test_a_line_is_what_an_encoder_makes_of_the_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(map(listing().row, pairs()))
    assert printed(capsys, pairs()) == '[\n' + ',\n'.join(map(json.dumps, rows)) + '\n]\n'
    assert [row['adopted'] for row in rows] == [False, True, False]
    assert [row['origin_address'] for row in rows] == [AWKWARD, '', '']


@pytest.mark.parametrize('sizes', [[], [0], [1], [2, 0, 1]], ids=str)
def test_rows_that_come_in_parts_are_one_array(sizes: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    parts = [pairs()[:size] for size in sizes]
    expected = [listing().row(pair) for part in parts for pair in part]
    assert json.loads(printed(capsys, *parts)) == expected
