# SPDX-License-Identifier: GPL-2.0-or-later
"""Audits and probations over a kernel in memory: what they leave, and what interrupts them."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from sockaccel.core.auditing import MAXIMUM_AUDITS
from sockaccel.core.policies import Policies, layer_of
from sockaccel.core.target import State
from sockaccel.errors import (
    InvalidArgument,
    InvalidTarget,
    KernelIssue,
    LimitExceeded,
    SystemRefused,
    UnknownTarget,
)  # fmt: skip
from tests.support import opensockets as seen
from tests.support.memory_kernel import ISSUE, Refusal, World, world

CONNECTION = [
    seen.listener(),
    seen.client(to_server=500, to_client=500),
    seen.server(to_server=500, to_client=500),
]


class AtOnce(ThreadPoolExecutor):
    """In place of threads: what a thread would do is done when it is asked for.

    The clock of these tests stands still while the code works. It could not know whether a thread still does.
    """

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> 'Future[Any]':
        done: Future[Any] = Future()
        try:
            done.set_result(work(*arguments, **named))
        except Exception as exc:  # noqa: BLE001 - whoever asked raises it
            done.set_exception(exc)
        return done


# How often the loop goes round until whoever can go on without time passing has done so, with plenty to spare.
ROUNDS = 50


def play(story: Callable[[World], Awaitable[None]], made: World | None = None) -> None:
    async def once() -> None:
        asyncio.get_running_loop().set_default_executor(AtOnce())
        chosen = made or world()
        await chosen.engine.start()
        await story(chosen)

    asyncio.run(once())


async def finish(made: World, *tasks: 'asyncio.Task[Any]') -> None:
    """Let time pass until these tasks are done."""
    while not all(task.done() for task in tasks):
        await go_on(made)


async def go_on(made: World) -> None:
    """Let time pass until somebody has waited for it; nobody is left who could go on without."""
    for _round in range(ROUNDS):
        await asyncio.sleep(0)
    if due := made.clock.due():
        made.clock.advance(min(due))


async def audited(made: World, name: str = '/x', seconds: int = 60) -> Any:
    task = asyncio.ensure_future(made.engine.audit(name, seconds))
    await finish(made, task)
    return await task


async def passed(made: World) -> None:
    """Until no target is on probation any more."""
    while any(row.state is State.PROBATION for row in made.engine.targets()):
        await go_on(made)
    # A target is enabled before it is written down, and until that is done the lock is held.
    async with made.engine._lock:
        pass
    await asyncio.sleep(0)


def rows(made: World) -> list[tuple[str, State]]:
    return [(row.name, row.state) for row in made.engine.targets()]


def test_an_audit_changes_nothing() -> None:
    async def story(made: World) -> None:
        made.kernel.seen = [[], CONNECTION]
        before = made.kernel.contents()
        report, _terms = await audited(made)
        assert report.local_bytes == 1000
        assert report.seconds == 60
        assert made.kernel.contents() == before
        assert not made.cgroups.followed
        assert not made.kernel.attached
        assert made.files.written.lasting == {}
        assert rows(made) == []
        assert set(made.kernel.looked_at) == {made.cgroups.cgroup('/x').id}
        assert len(made.kernel.looked_at) == 21

    play(story)


def test_calls_are_watched_as_long_as_an_audit_runs() -> None:
    async def story(made: World) -> None:
        made.kernel.on_look = lambda: noted.append(list(made.kernel.calls_watched))
        noted: list[list[bool]] = []
        first = asyncio.ensure_future(made.engine.audit('/x', 60))
        second = asyncio.ensure_future(made.engine.audit('/y', 120))
        await finish(made, first)
        # One ends before the other one.
        assert made.kernel.calls_watched == [True]
        await finish(made, second)
        assert made.kernel.calls_watched == [True, False]
        assert all(each == [True] for each in noted)

    play(story)


def test_calls_that_cannot_be_watched() -> None:
    async def story(made: World) -> None:
        made.failures.plan('watch_calls', OSError(12, 'no memory'))
        with pytest.raises(SystemRefused, match='was not audited'):
            await audited(made)
        await audited(made)
        assert made.kernel.calls_watched == [True, False]

    play(story)


def test_no_issue_needs_to_be_accepted() -> None:
    async def story(made: World) -> None:
        await audited(made)

    play(story, world([ISSUE]))


@pytest.mark.parametrize('seconds', [0, 3601])
def test_too_short_or_too_long(seconds: int) -> None:
    async def story(made: World) -> None:
        with pytest.raises(LimitExceeded, match='from 1 to 3600 seconds'):
            await made.engine.audit('/x', seconds)

    play(story)


def test_an_enabled_target_is_refused() -> None:
    async def story(made: World) -> None:
        await made.engine.enable('/x')
        with pytest.raises(InvalidTarget, match='"/x" is enabled'):
            await made.engine.audit('/x')
        assert '/x' in made.cgroups.followed

    play(story)


def test_what_does_not_run_is_refused() -> None:
    async def story(made: World) -> None:
        with pytest.raises(InvalidTarget, match='nothing to watch'):
            await made.engine.audit('x.service')
        with pytest.raises(InvalidTarget):
            await made.engine.audit('/nowhere/x')
        assert not made.cgroups.followed

    play(story)


def test_one_that_is_enabled_meanwhile_stays_followed() -> None:
    async def story(made: World) -> None:
        task = asyncio.ensure_future(made.engine.audit('/x'))
        await asyncio.sleep(0)
        await made.engine.enable('/x')
        await finish(made, task)
        assert rows(made) == [('/x', State.ACTIVE)]
        assert '/x' in made.cgroups.followed

    play(story)


def test_a_unit_that_is_restarted_is_found_again() -> None:
    async def story(made: World) -> None:
        def restart() -> None:
            if len(made.kernel.looked_at) == 3:
                made.cgroups.remove('/x')

        made.kernel.on_look = restart
        await audited(made)
        assert len(set(made.kernel.looked_at)) == 2

    play(story)


def test_two_of_a_target_and_too_many() -> None:
    async def story(made: World) -> None:
        tasks = [asyncio.ensure_future(made.engine.audit(f'/{number}')) for number in range(MAXIMUM_AUDITS)]
        await asyncio.sleep(0)
        with pytest.raises(LimitExceeded, match='is being audited already'):
            await made.engine.audit('/0')
        with pytest.raises(LimitExceeded, match='which is the limit'):
            await made.engine.audit('/x')
        # One whose client has left makes room.
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        tasks[0] = asyncio.ensure_future(made.engine.audit('/x'))
        await finish(made, *tasks)
        await asyncio.gather(*tasks)

    play(story)


def test_a_look_that_fails() -> None:
    async def story(made: World) -> None:
        made.failures.plan('look', OSError(12, 'no memory'))
        with pytest.raises(SystemRefused, match='walk over open files failed'):
            await audited(made)
        await audited(made)

    play(story)


def test_a_slow_look_has_a_rest() -> None:
    """At most a tenth of the time is spent with looks."""

    async def story(made: World) -> None:
        def slow() -> None:
            made.clock.now += 1

        made.kernel.on_look = slow
        await audited(made)
        assert len(made.kernel.looked_at) <= 7

    play(story)


def test_probation_ends_with_enabling() -> None:
    async def story(made: World) -> None:
        made.kernel.seen = [[], CONNECTION]
        await made.engine.enable_after(60, '/x', by='somebody')
        assert rows(made) == [('/x', State.PROBATION)]
        assert not made.kernel.attached
        with pytest.raises(InvalidArgument, match='on probation already'):
            await made.engine.enable_after(60, '/x')
        await passed(made)
        assert rows(made) == [('/x', State.ACTIVE)]
        # A thread remembers it a moment later, and the engine is locked until then.
        async with made.engine._lock:
            assert made.files.written.lasting == {'/x': {}}

    play(story)


@pytest.mark.parametrize(
    ('ends', 'why'),
    [
        (
            [seen.listener(), seen.client(to_server=5, blocks=True), seen.server(to_server=5)],
            'would hurt the programs',
        ),
        ([seen.listener(), seen.client(to_server=5, local=False)], 'no connection on this host carried anything'),
        ([], 'no connection on this host carried anything'),
    ],
)
def test_probation_ends_with_a_sentence(ends: list[Any], why: str) -> None:
    async def story(made: World) -> None:
        made.kernel.seen = [[], ends]
        changes = made.changes
        await made.engine.enable_after(60, '/x')
        await passed(made)
        (row,) = made.engine.targets()
        assert row.state is State.REFUSED
        assert why in row.detail
        assert 'client' not in row.detail
        assert not made.kernel.attached
        assert made.changes == changes + 2
        assert made.files.written.lasting == {}
        await made.engine.disable('/x')
        assert rows(made) == []

    play(story, world(policies=Policies(layer_of({'BlockingReaders': 'yes'}))))


def test_probation_whose_end_cannot_enable() -> None:
    async def story(made: World) -> None:
        made.kernel.seen = [[], CONNECTION]
        await made.engine.enable_after(60, '/x')
        made.failures.plan('write', Refusal('the disk is full'))
        await passed(made)
        (row,) = made.engine.targets()
        assert (row.state, row.detail) == (State.REFUSED, 'the disk is full')
        await made.engine.enable('/x')
        assert rows(made) == [('/x', State.ACTIVE)]

    play(story)


def test_probation_asks_for_issues_at_once() -> None:
    async def story(made: World) -> None:
        with pytest.raises(KernelIssue):
            await made.engine.enable_after(60, '/x')
        await made.engine.enable_after(60, '/x', {'AcceptKernelIssues': 'fionread'})
        await made.engine.disable('/x')
        assert rows(made) == []
        with pytest.raises(UnknownTarget):
            await made.engine.disable('/x')
        await audited(made)

    play(story, world([ISSUE]))


@pytest.mark.parametrize('ending', ['stop', 'leave'])
def test_a_daemon_that_ends_leaves_it_off(ending: str, caplog: pytest.LogCaptureFixture) -> None:
    async def story(made: World) -> None:
        await made.engine.enable_after(90, '/x')
        await getattr(made.engine, ending)()
        assert rows(made) == []
        again = made.restart()
        await again.engine.start()
        assert rows(again) == []

    play(story)


def test_enabled_in_the_middle_of_it() -> None:
    async def story(made: World) -> None:
        await made.engine.enable_after(60, '/x')
        await made.engine.enable('/x')
        assert rows(made) == [('/x', State.ACTIVE)]

    play(story)
