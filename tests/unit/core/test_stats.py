# SPDX-License-Identifier: GPL-2.0-or-later
"""Counters by name: of all targets, of one since it was enabled, and since a reset."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sockaccel.core.limits import MAX_TARGETS
from sockaccel.errors import UnknownTarget
from sockaccel.kernel.abi import COUNTERS
from tests.support.memory_kernel import NAMES, World, world

BYTES, EXCLUDED = NAMES.index('redirected_bytes'), NAMES.index('excluded')


def run(story: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """With two targets, in slots 1 and 2."""

    async def whole() -> None:
        made = world()
        await made.engine.start()
        made.kernel.table[1][BYTES] = 1000
        await made.engine.enable('/x')
        await made.engine.enable('/y')
        await story(made)

    asyncio.run(whole())


def count(made: World, slot: int, number: int) -> None:
    made.kernel.table[slot][BYTES] += number


def test_names() -> None:
    async def story(made: World) -> None:
        made.kernel.table[2][EXCLUDED] = 7
        stats = made.engine.stats()
        assert len(stats) == len(COUNTERS)
        assert (stats['redirected_bytes'], stats['connection_reason_excluded']) == (1000, 7)
        assert 'message_reason_order' in stats

    run(story)


def test_a_target_begins_at_zero_whatever_its_slot_had() -> None:
    async def story(made: World) -> None:
        assert made.engine.target_stats('/x')['redirected_bytes'] == 0
        count(made, 1, 5)
        count(made, 2, 6)
        assert made.engine.target_stats('/x')['redirected_bytes'] == 5
        assert made.engine.target_stats('/y')['redirected_bytes'] == 6
        assert made.engine.stats()['redirected_bytes'] == 1011

    run(story)


def test_a_reset_of_all_leaves_the_absolute_counters() -> None:
    async def story(made: World) -> None:
        count(made, 1, 5)
        assert made.engine.stats_since_reset('')['redirected_bytes'] == 1005
        made.engine.reset_counters('')
        count(made, 1, 2)
        count(made, 2, 1)
        assert made.engine.stats_since_reset('')['redirected_bytes'] == 3
        assert made.engine.stats_since_reset('/x')['redirected_bytes'] == 2
        assert made.engine.stats()['redirected_bytes'] == 1008
        assert made.engine.target_stats('/x')['redirected_bytes'] == 7

    run(story)


def test_a_reset_of_one_target_leaves_the_others() -> None:
    async def story(made: World) -> None:
        for slot in (1, 2):
            count(made, slot, 5)
        made.engine.reset_counters('/x')
        count(made, 1, 1)
        assert made.engine.stats_since_reset('/x')['redirected_bytes'] == 1
        assert made.engine.stats_since_reset('/y')['redirected_bytes'] == 5
        assert made.engine.stats_since_reset('')['redirected_bytes'] == 6

    run(story)


def test_a_slot_that_is_used_again_has_no_earlier_reset() -> None:
    """The reset of the slot's last target was before this target was enabled."""

    async def story(made: World) -> None:
        made.engine.reset_counters('/x')
        await made.engine.disable('/x')
        count(made, 1, 50)
        for number in range(3, MAX_TARGETS):
            await made.engine.enable(f'/{number}')
        await made.engine.enable('/last')
        assert made.engine.target_of_slot(1) == '/last'
        count(made, 1, 4)
        assert made.engine.stats_since_reset('/last')['redirected_bytes'] == 4

    run(story)


def test_a_target_that_is_not_enabled_has_none() -> None:
    async def story(made: World) -> None:
        for ask in (made.engine.target_stats, made.engine.stats_since_reset, made.engine.reset_counters):
            with pytest.raises(UnknownTarget, match='"/z"'):
                ask('/z')

    run(story)


def test_reasons() -> None:
    async def story(made: World) -> None:
        assert made.engine.reason(EXCLUDED) == COUNTERS[EXCLUDED]
        for nothing in (0, -1, len(COUNTERS), 1 << 31):
            assert made.engine.reason(nothing) is None

    run(story)
