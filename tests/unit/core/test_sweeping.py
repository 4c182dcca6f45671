# SPDX-License-Identifier: GPL-2.0-or-later
"""When the daemon sweeps: soon, once for many requests, and never so often that it loads the machine."""

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import structlog

from sockaccel.core.connection import EventKind
from sockaccel.core.protocols import Urgency
from sockaccel.core.sweeping import REST, RETRY_AFTER_S, RETRY_AT_LEAST_EVERY_S, SWEEP_AFTER_S
from tests.support.memory_kernel import World, defaults, end, world

Story = Callable[[World], Coroutine[Any, Any, None]]


NEW_ONLY = {'AdoptConnections': 'no'}


def run(story: Story, *, join_after_s: float = 0.1) -> None:
    """With a target, and without what its enabling has asked for."""

    async def whole() -> None:
        made = world(policies=defaults(JoinDelayMs=str(int(join_after_s * 1000))))
        await made.engine.start()
        await made.engine.enable('/x')
        made.clock.advance(60)
        assert made.clock.due() == []
        made.kernel.sweeps.clear()
        made.kernel.searches.clear()
        await story(made)

    asyncio.run(whole())


def want(made: World, urgency: Urgency) -> None:
    made.kernel.wanted = urgency
    made.engine.consume()


def test_nothing_is_swept_without_a_reason() -> None:
    async def story(made: World) -> None:
        want(made, Urgency.NONE)
        made.clock.advance(3600)
        assert made.kernel.sweeps == []

    run(story)


@pytest.mark.parametrize(('urgency', 'after'), [(Urgency.NOW, SWEEP_AFTER_S), (Urgency.LATER, 0.1)])
def test_a_sweep_that_is_wanted(urgency: Urgency, after: float) -> None:
    async def story(made: World) -> None:
        begun = made.clock.time()
        want(made, urgency)
        made.clock.advance(1)
        assert made.kernel.sweeps == [pytest.approx(begun + after)]
        assert made.clock.due() == []

    run(story)


def test_many_requests_share_a_sweep() -> None:
    async def story(made: World) -> None:
        begun = made.clock.time()
        for _event in range(100):
            want(made, Urgency.NOW)
            made.clock.advance(SWEEP_AFTER_S / 1000)
        made.clock.advance(1)
        assert made.kernel.sweeps == [pytest.approx(begun + SWEEP_AFTER_S)]

    run(story)


def test_a_more_urgent_request_is_not_kept_waiting_by_another() -> None:
    async def story(made: World) -> None:
        begun = made.clock.time()
        want(made, Urgency.LATER)
        want(made, Urgency.NOW)
        # The second takes the first one's place.
        assert made.clock.due() == [pytest.approx(SWEEP_AFTER_S)]
        made.clock.advance(1)
        want(made, Urgency.NOW)
        want(made, Urgency.LATER)
        made.clock.advance(1)
        assert made.kernel.sweeps == [
            pytest.approx(begun + SWEEP_AFTER_S),
            pytest.approx(begun + 1 + SWEEP_AFTER_S),
        ]

    run(story)


def test_after_a_sweep_the_daemon_rests() -> None:
    async def story(made: World) -> None:
        made.kernel.sweep_takes_s = 0.5
        begun = made.clock.time()
        want(made, Urgency.NOW)
        made.clock.advance(1)
        want(made, Urgency.NOW)
        made.clock.advance(60)
        first, second = made.kernel.sweeps
        assert first == pytest.approx(begun + SWEEP_AFTER_S)
        assert second == pytest.approx(first + 0.5 + REST * 0.5)

    run(story)


def test_sweeping_for_ever_costs_a_tenth() -> None:
    async def story(made: World) -> None:
        made.kernel.sweep_takes_s = 0.2
        begun = made.clock.time()
        while made.clock.time() < begun + 1000:
            want(made, Urgency.NOW)
            made.clock.advance(0.01)
        busy = len(made.kernel.sweeps) * made.kernel.sweep_takes_s
        assert busy / (made.clock.time() - begun) == pytest.approx(1 / (1 + REST), rel=0.01)

    run(story)


def test_the_next_candidate_is_looked_at_when_it_is_due() -> None:
    async def story(made: World) -> None:
        due = made.clock.time() + 5
        made.kernel.next_due_s = due
        want(made, Urgency.NOW)
        made.clock.advance(1)
        made.kernel.next_due_s = None
        made.clock.advance(60)
        assert made.kernel.sweeps[1:] == [pytest.approx(due)]

    run(story)


def test_candidates_of_nobody_are_not_waited_for() -> None:
    async def story(made: World) -> None:
        made.kernel.next_due_s = made.clock.time() + 5
        await made.engine.disable('/x')
        assert made.clock.due() == []

    run(story)


def test_evicted_ends_are_told_with_their_target() -> None:
    async def story(made: World) -> None:
        made.kernel.evicted = [end(kind=EventKind.EVICTED, slot=1), end(kind=EventKind.EVICTED, slot=2)]
        want(made, Urgency.NOW)
        made.clock.advance(1)
        assert [(event.slot, target) for event, target in made.events] == [(1, '/x'), (2, '')]

    run(story)


def test_an_event_that_only_wakes_is_told_to_nobody() -> None:
    async def story(made: World) -> None:
        made.kernel.waiting = [end(kind=EventKind.SWEEP_WANTED), end(kind=EventKind.JOINED)]
        want(made, Urgency.LATER)
        assert [event.kind for event, _target in made.events] == [EventKind.JOINED]

    run(story)


def test_sockets_are_searched_for_once_for_many_targets() -> None:
    async def story(made: World) -> None:
        made.kernel.search_takes_s = 0.3
        for name in ('/a', '/b', '/c'):
            await made.engine.enable(name, NEW_ONLY)
        made.clock.advance(1)
        assert len(made.kernel.searches) == 1
        # After a search the daemon rests too, and the next sweep does not search again.
        searched = made.kernel.searches[0]
        want(made, Urgency.NOW)
        made.clock.advance(60)
        assert made.kernel.sweeps[-1] == pytest.approx(searched + 0.3 + REST * 0.3)
        assert made.kernel.searches == [searched]

    run(story)


def test_enable_returns_when_connections_are_adopted() -> None:
    """It searches and sweeps, but it searches again only after the rest."""

    async def story(made: World) -> None:
        made.kernel.search_takes_s = 0.3
        await made.engine.enable('/a')
        assert (len(made.kernel.searches), len(made.kernel.sweeps)) == (1, 1)
        await made.engine.enable('/b')
        await made.engine.enable('/c')
        assert len(made.kernel.searches) == 1
        made.clock.advance(60)
        assert len(made.kernel.searches) == 2

    run(story)


def test_the_first_target_searches_before_enable_returns() -> None:
    async def story(made: World) -> None:
        await made.engine.disable('/x')
        await made.engine.enable('/y')
        assert len(made.kernel.searches) == 1
        made.clock.advance(60)
        assert len(made.kernel.searches) == 1

    run(story)


def test_missed_connections_are_logged() -> None:
    async def story(made: World) -> None:
        made.kernel.missed = {2: 3}
        await made.engine.enable('/y')
        made.clock.advance(1)

    with structlog.testing.capture_logs() as lines:
        run(story)
    (missed,) = [line for line in lines if line['event'].startswith('Missed')]
    assert missed['event'].startswith('Missed 3 connections of "/y"')


def test_a_limit_is_told_once_an_hour() -> None:
    async def story(made: World) -> None:
        def sweep() -> list[str]:
            with structlog.testing.capture_logs() as entries:
                want(made, Urgency.NOW)
                made.clock.advance(60)
            return [entry['event'] for entry in entries if 'keep track' in entry['event']]

        assert sweep() == []
        made.kernel.ends_turned_away = 3
        assert [' 3 ends' in line for line in sweep()] == [True]
        made.kernel.ends_turned_away = 5
        assert sweep() == []
        made.clock.advance(3600)
        made.kernel.ends_turned_away = 6
        assert [' 3 ends' in line for line in sweep()] == [True]
        made.clock.advance(3600)
        assert sweep() == []

    run(story)


@pytest.mark.parametrize('walk', ['sweep', 'find_sockets'])
def test_a_walk_that_fails_is_tried_again_with_growing_waits(walk: str) -> None:
    """The kernel may have no memory left for a while. Nobody else would ask for the sweep again."""

    async def story(made: World) -> None:
        if walk == 'find_sockets':
            await made.engine.enable('/y', NEW_ONLY)
        made.kernel.sweeps.clear()
        want(made, Urgency.NOW)
        waits = [SWEEP_AFTER_S]
        with structlog.testing.capture_logs() as lines:
            for attempt in range(13):
                made.failures.plan(walk, OSError(errno.ENOMEM, 'Cannot allocate memory'))
                (wait,) = made.clock.due()
                waits.append(wait)
                made.clock.advance(wait)
                assert lines[attempt]['log_level'] == 'error'
        assert lines[0]['event'] == (
            'A walk over the sockets failed ([Errno 12] Cannot allocate memory); the next attempt is in 0.1 s, '
            'ignoring'
        )
        assert waits[2:5] == [pytest.approx(RETRY_AFTER_S * factor) for factor in (1, 2, 4)]
        assert waits[-1] == pytest.approx(RETRY_AT_LEAST_EVERY_S)
        made.clock.advance(RETRY_AT_LEAST_EVERY_S)
        assert made.clock.due() == []
        assert made.kernel.searches if walk == 'find_sockets' else made.kernel.sweeps
        # The next one does not wait for what is long past.
        made.clock.advance(RETRY_AT_LEAST_EVERY_S)
        made.failures.plan('sweep', OSError(errno.ENOMEM, ''))
        want(made, Urgency.NOW)
        made.clock.advance(SWEEP_AFTER_S)
        # Nor does it begin at once because somebody wants it.
        want(made, Urgency.NOW)
        assert made.clock.due() == [pytest.approx(RETRY_AFTER_S)]
        made.clock.advance(1)
        assert made.clock.due() == []

    run(story)


def test_closed_listeners_are_looked_for_when_there_is_no_place_for_more() -> None:
    async def story(made: World) -> None:
        with structlog.testing.capture_logs() as entries:
            for turned_away, seconds, searches in ((0, 1, 0), (1, 1, 1), (1, 60, 1), (2, 1, 2), (3, 1, 2)):
                made.kernel.listeners_turned_away = turned_away
                want(made, Urgency.NOW)
                made.clock.advance(seconds)
                assert len(made.kernel.searches) == searches
        assert len([entry for entry in entries if 'listeners of targets' in entry['event']]) == 1


def test_disable_lasts_though_the_sweep_fails() -> None:
    async def story(made: World) -> None:
        made.failures.plan('sweep', OSError(errno.ENOMEM, 'Cannot allocate memory'))
        await made.engine.disable('/x')
        assert made.engine.targets() == []
        assert made.kernel.policies == {}
        made.clock.advance(1)
        assert made.kernel.sweeps
        assert not made.kernel.attached

    run(story)
