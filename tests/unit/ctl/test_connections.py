# SPDX-License-Identifier: GPL-2.0-or-later
"""What "connections --json" prints is what a JSON encoder would."""

import json
from collections.abc import Sequence

import pytest

from sockaccel.core.ends import End
from sockaccel.core.rows import Row, row
from sockaccel.ctl.connections import _Json
from sockaccel.kernel.abi import COUNTERS
from sockaccel.kernel.ends import Ends
from tests.support.memory_kernel import packed_ends


class Awkward:
    """Names with what JSON must escape, and with what stands in Python's formats. Implements rows.Names."""

    reasons: Sequence[str] = [counter.name for counter in COUNTERS]

    def target(self, _slot: int) -> str:
        return '/100% "quoted" \\ %s\n\x1b é'

    def cgroup(self, _number: int) -> str:
        return ''

    def origin(self, _cookie: int) -> tuple[str, int]:
        return '', 0


def rows() -> list[Row]:
    """The second is adopted, and in the third one end is unknown."""
    ends = list(Ends(lambda: iter(())).layout.ends(packed_ends(3)))
    pairs: list[tuple[End | None, End | None]] = [
        (ends[0], ends[1]), (ends[2]._replace(flags=3, marked=1), ends[3]), (None, ends[5]),
    ]  # fmt: skip
    return [row(pair, Awkward(), 1 << 60) for pair in pairs]


def test_a_line_is_what_an_encoder_makes_of_the_row() -> None:
    for each in rows():
        assert _Json().line(each) == json.dumps(each)
    assert [each['adopted'] for each in rows()] == [False, True, False]


@pytest.mark.parametrize('parts', [[], [0], [1], [2, 0, 1]], ids=str)
def test_rows_that_come_in_parts_are_one_array(parts: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    printer, printed = _Json(), list[Row]()
    for part in parts:
        some = rows()[:part]
        printer.add(some)
        printed += some
    printer.end(len(printed))
    assert json.loads(capsys.readouterr().out) == printed
