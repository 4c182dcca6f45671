# SPDX-License-Identifier: GPL-2.0-or-later
"""Walks over all open files that find nobody become rare."""

import pytest

from sockaccel.kernel.clients import FIRST_PAUSE_NS, LONGEST_PAUSE_NS, Clients


class Time:
    def __init__(self) -> None:
        self.now_ns = 1_000_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr('time.monotonic_ns', made.monotonic_ns)
    return made


def test_nobody_is_looked_for_where_nobody_waits(time: Time) -> None:
    made = Clients()
    assert not made.are_due(0)
    assert made.due_ns(0) == 0
    assert made.are_due(1)


def test_pauses_grow_up_to_a_minute(time: Time) -> None:
    made = Clients()
    for pause in (FIRST_PAUSE_NS, 2 * FIRST_PAUSE_NS, 4 * FIRST_PAUSE_NS):
        made.were_looked_for(0)
        assert not made.are_due(1)
        assert made.due_ns(1) == time.now_ns + pause
        time.now_ns += pause
        assert made.are_due(1)
        assert made.due_ns(1) == 0
    for _search in range(8):
        made.were_looked_for(0)
    assert made.due_ns(1) == time.now_ns + LONGEST_PAUSE_NS


def test_one_that_was_found_ends_the_pauses(time: Time) -> None:
    made = Clients()
    made.were_looked_for(0)
    made.were_looked_for(1)
    assert made.are_due(1)
