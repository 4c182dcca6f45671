# SPDX-License-Identifier: GPL-2.0-or-later
"""What the journal tells of connections, and what it leaves out."""

import logging
from collections.abc import Iterator

import pytest
import structlog
from structlog.typing import EventDict

from sockaccel.core import messages
from sockaccel.core.connection import Event, EventKind
from sockaccel.core.story import Story
from sockaccel.kernel.abi import COUNTERS
from tests.support.memory_kernel import NAMES, end

MAP_FULL = NAMES.index('map_full')


def event(kind: EventKind, reason: int = 0) -> Event:
    return end(kind=kind, reason=reason)


class Told:
    """A story whose lines are kept, at a time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.suppressed = 0
        self.lines: list[EventDict] = []
        self.story = Story(
            lambda index: COUNTERS[index] if index else None, lambda: self.suppressed, lambda: self.now
        )

    @property
    def texts(self) -> list[str]:
        return [line['event'] for line in self.lines]


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()

    def keep(_logger: object, method: str, line: EventDict) -> str:
        told.lines.append({**line, 'method': method})
        raise structlog.DropEvent

    before, level = structlog.get_config(), logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, keep],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    yield told
    structlog.configure(**before)
    logging.getLogger().setLevel(level)


def test_the_first_of_each_kind_then_one_an_hour(told: Told) -> None:
    for _connection in range(100):
        told.story.tell(event(EventKind.JOINED), 'x.service')
    told.story.tell(event(EventKind.CLOSED), 'x.service')
    told.story.tell(event(EventKind.JOINED), 'y.service')
    assert [line['target'] for line in told.lines] == ['x.service'] * 6 + ['y.service']
    told.now = 3600
    told.story.tell(event(EventKind.JOINED), 'x.service')
    assert told.texts[-1].endswith('; 95 lines like this were left out before')
    assert told.lines[-1]['left_out'] == 95


def test_a_line_has_fields(told: Told) -> None:
    told.story.tell(event(EventKind.CLOSED), 'x.service')
    (line,) = told.lines
    assert line['event'] == (
        'Closed 127.0.0.1:40000 -> 127.0.0.1:5432: sent 100 bytes redirected, 7 by TCP (psql[42])'
    )
    assert (line['target'], line['src'], line['dst']) == ('x.service', '127.0.0.1:40000', '127.0.0.1:5432')


def test_a_day_of_a_busy_service_is_short(told: Told) -> None:
    for minute in range(24 * 60):
        told.now = 60 * minute
        for _connection in range(20):
            told.story.tell(event(EventKind.JOINED), 'x.service')
            told.story.tell(event(EventKind.CLOSED), 'x.service')
    assert len(told.lines) < 60


def test_debug_tells_all(told: Told) -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    for _connection in range(100):
        told.story.tell(event(EventKind.JOINED), 'x.service')
    assert len(told.lines) == 100
    assert [line['method'] for line in told.lines[:6]] == ['info'] * 5 + ['debug']


def test_the_end_of_a_target_says_what_was_left_out(told: Told) -> None:
    for _connection in range(10):
        told.story.tell(event(EventKind.JOINED), 'x.service')
        told.story.tell(event(EventKind.JOINED), 'y.service')
    told.lines.clear()
    told.story.finish(frozenset({'y.service'}))
    assert told.texts == ['5 lines about connections of "x.service" were left out: 5 joined']
    told.story.finish()
    assert len(told.lines) == 2


def test_what_the_kernel_side_left_out_is_told(told: Told) -> None:
    told.suppressed = 7
    told.story.tell(event(EventKind.JOINED), 'x.service')
    told.story.tell(event(EventKind.JOINED), 'x.service')
    assert [text for text in told.texts if 'EventsPerSecond=' in text] == [
        '7 connection events were above EventsPerSecond= and are only counted'
    ]


def test_a_full_map_is_a_warning(told: Told) -> None:
    told.story.tell(event(EventKind.REFUSED, MAP_FULL), 'x.service')
    assert told.lines[0]['method'] == 'warning'
    assert told.lines[0]['message_id']


def test_endless_new_targets_take_no_endless_memory(told: Told) -> None:
    for number in range(10_000):
        told.story.tell(event(EventKind.JOINED), f'{number}.service')
    assert len(told.story._budgets) <= 4096


def test_a_broken_stream_is_an_error_each_time(told: Told) -> None:
    for _connection in range(100):
        told.story.tell(event(EventKind.BROKEN, NAMES.index('splice_unread')), 'x.service')
    assert len(told.lines) == 100
    assert {line['method'] for line in told.lines} == {'error'}
    assert {line['message_id'] for line in told.lines} == {messages.STREAM_BROKEN}
    assert 'of "x.service" reads' in told.texts[0]
