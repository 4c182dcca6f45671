# SPDX-License-Identifier: GPL-2.0-or-later
"""Which target has which slot, and when a slot can be used again."""

import asyncio

from sockaccel.core.connection import EventKind
from sockaccel.core.target import State
from tests.support.memory_kernel import end, world


def test_slot_0_is_nobodys_and_generations_grow() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        for generation in range(1, 4):
            await made.engine.enable('/x')
            ((slot, (found, _policy)),) = made.kernel.contents().on.items()
            assert (slot, found) == (generation, generation)
            await made.engine.disable('/x')

    asyncio.run(story())


def test_a_late_event_finds_the_name_of_its_target() -> None:
    """Its slot is taken again only when all others have been."""

    async def story() -> None:
        made = world()
        await made.engine.start()
        await made.engine.enable('/first')
        await made.engine.disable('/first')
        for number in range(2, 128):
            await made.engine.enable(f'/{number}')
        made.kernel.waiting = [end(slot=1, kind=EventKind.CLOSED)]
        made.engine.consume()
        assert made.events.pop()[1] == made.engine.target_of_slot(1) == '/first'
        await made.engine.enable('/last')
        assert made.engine.target_of_slot(1) == '/last'
        assert made.engine.target_of_slot(0) == ''

    asyncio.run(story())


def test_what_drains_is_listed_until_it_has_left() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        await made.engine.enable('/x')
        await made.engine.enable('/y')
        made.kernel.unread = {1: 3}
        await made.engine.disable('/x')
        assert made.engine.targets()[1].detail == '3 sockets hold unread bytes'
        # It comes back before they have left, in another slot.
        await made.engine.enable('/x')
        assert [(row.name, row.state) for row in made.engine.targets()] == [
            ('/y', State.ACTIVE), ('/x', State.ACTIVE), ('/x', State.DRAINING),
        ]  # fmt: skip
        assert made.kernel.contents().on[3][0] == 3
        made.kernel.unread = {}
        made.engine._sweeper.request(0)
        changes = made.changes
        made.clock.advance(1)
        assert len(made.engine.targets()) == 2
        assert made.changes == changes + 1

    asyncio.run(story())


def test_an_end_that_leaves_an_enabled_target_is_not_listed() -> None:
    """Its connection is paused, or blocks: the target does not drain."""

    async def story() -> None:
        made = world()
        await made.engine.start()
        await made.engine.enable('/x')
        made.kernel.marked = [end(slot=1, kind=EventKind.CONNECTION)]
        made.engine._sweeper.sweep()
        assert [(row.name, row.state) for row in made.engine.targets()] == [('/x', State.ACTIVE)]

    asyncio.run(story())


def test_the_program_stays_attached_while_something_drains() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        await made.engine.enable('/x')
        made.kernel.unread = {1: 1}
        await made.engine.disable('/x')
        assert made.kernel.attached
        made.kernel.unread = {}
        made.engine._sweeper.request(0)
        made.clock.advance(1)
        assert not made.kernel.attached

    asyncio.run(story())
