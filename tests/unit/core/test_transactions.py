# SPDX-License-Identifier: GPL-2.0-or-later
"""Each change of what is enabled is done as a whole, or undone: every step is made to fail once."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from sockaccel.core.cgroup import Place
from sockaccel.core.desired import Desired, Slot
from sockaccel.core.finding import Finding
from sockaccel.core.limits import MAX_TARGET_LEVELS, MAX_TARGETS
from sockaccel.core.policy import Policy
from sockaccel.core.target import State, Target
from sockaccel.errors import InvalidTarget, KernelIssue, KernelRefused, LimitExceeded, StateNotSaved, UnknownTarget
from sockaccel.kernel.abi import COUNTERS
from tests.support.memory_kernel import ISSUE, Contents, Refusal, World, defaults, world

LISTENERS = frozenset({('127.0.0.1', 80), ('::1', 80)})
# What `enable` asks of others, in the order in which it does.
STEPS_OF_ENABLE = [
    'follow', 'counters', 'open_root', 'attach', 'set_target', 'cover', 'serve 0', 'serve 1', 'find_sockets',
    'write',
]  # fmt: skip


@dataclass(frozen=True)
class Everything:
    """All that an enabled target changes anywhere."""

    kernel: Contents
    followed: dict[str, Place]
    written: Desired
    desired: Desired
    rows: list[Any]

    @classmethod
    def of(cls, world: World) -> 'Everything':
        return cls(
            world.kernel.contents(), dict(world.cgroups.followed), world.files.written,
            world.engine._transactions.desired.copy(), world.engine.targets(),
        )  # fmt: skip


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(story())


def rows(world: World) -> list[tuple[str, State]]:
    return [(row.name, row.state) for row in world.engine.targets()]


def test_what_enable_does() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        made.cgroups.listeners['/x'] = LISTENERS
        made.failures.calls.clear()
        await made.engine.enable('/x')
        calls = [call for call in made.failures.calls if call != 'counters']
        # The sweep lets connections join that were there before.
        assert calls == [*(step for step in STEPS_OF_ENABLE if step != 'counters'), 'sweep']
        kernel = made.kernel.contents()
        assert kernel.attached
        assert kernel.on == {1: (1, Policy())}
        assert kernel.covered == {made.cgroups.cgroup('/x').id: 1}
        assert kernel.serving == dict.fromkeys(LISTENERS, 1)
        assert made.files.written.lasting == {'/x': {}}
        assert rows(made) == [('/x', State.ACTIVE)]
        # Again is no change, but whoever waits for one is told.
        before, changes = Everything.of(made), made.changes
        await made.engine.enable('/x')
        assert (Everything.of(made), made.changes) == (before, changes + 1)

    run(story)


@pytest.mark.parametrize(
    ('step', 'others'),
    # With another target there already the search for sockets waits for the next sweep.
    [(step, others) for step in STEPS_OF_ENABLE for others in (0, 1) if (step, others) != ('find_sockets', 1)],
)
@pytest.mark.parametrize('error', [Refusal('no'), OSError(12, 'no memory'), asyncio.CancelledError()])
def test_a_step_of_enable_that_fails_undoes_all(step: str, others: int, error: BaseException) -> None:
    """others: how many targets are enabled. With none, enable attaches the program too."""

    async def story() -> None:
        made = world()
        await made.engine.start()
        for number in range(others):
            await made.engine.enable(f'/other{number}')
        before = Everything.of(made)
        made.cgroups.listeners['/x'] = LISTENERS
        made.failures.plan(step, error)
        with pytest.raises(type(error)):
            await made.engine.enable('/x')
        assert Everything.of(made) == before, step
        # Nothing is in the way of another try.
        await made.engine.enable('/x')
        assert rows(made)[-1] == ('/x', State.ACTIVE)
        assert len(made.kernel.contents().on) == others + 1

    run(story)


def test_the_program_that_was_attached_for_another_target_stays() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        await made.engine.enable('/x')
        made.failures.plan('cover', KernelRefused('no'))
        with pytest.raises(KernelRefused):
            await made.engine.enable('/y')
        assert made.kernel.attached
        await made.engine.disable('/x')
        assert not made.kernel.attached

    run(story)


def test_a_disable_that_cannot_be_remembered_changes_nothing() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        await made.engine.enable('/x')
        before = Everything.of(made)
        made.failures.plan('write', StateNotSaved('the disk is full'))
        with pytest.raises(StateNotSaved):
            await made.engine.disable('/x')
        assert Everything.of(made) == before

    run(story)


@pytest.mark.parametrize('name', ['nonsense', '', '/nowhere/at/all'])
def test_what_names_nothing_changes_nothing(name: str) -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        before = Everything.of(made)
        with pytest.raises(InvalidTarget):
            await made.engine.enable(name)
        with pytest.raises((InvalidTarget, UnknownTarget)):
            await made.engine.disable(name)
        assert Everything.of(made) == before

    run(story)


def test_two_targets_cannot_have_one_cgroup() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        await made.engine.enable('/x')
        await made.engine.enable('late.service')
        assert rows(made) == [('/x', State.ACTIVE), ('late.service', State.WAITING)]
        # The unit starts in a cgroup that is enabled by its path: it waits, and says for what.
        place = Place(made.cgroups.cgroup('/x'))
        made.cgroups.move('late.service', place)
        assert made.engine.targets()[1].detail == 'its cgroup is that of "/x", which is enabled already'
        await made.engine.disable('/x')
        assert rows(made) == [('late.service', State.ACTIVE)]
        assert made.kernel.covered() == {made.cgroups.cgroup('/x').id: 2}
        with pytest.raises(InvalidTarget, match='is the cgroup of "late.service"'):
            await made.engine.enable('/x')

    run(story)


def test_a_cgroup_that_comes_and_goes() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        await made.engine.enable('/x')
        first = made.cgroups.cgroup('/x').id
        made.cgroups.remove('/x')
        made.cgroups.move('/x', Place(None, 'its cgroup does not exist yet'))
        assert (rows(made), made.kernel.covered()) == ([('/x', State.WAITING)], {})
        searches = len(made.kernel.searches)
        made.cgroups.move('/x', Place(made.cgroups.cgroup('/x'), '', LISTENERS))
        assert made.cgroups.cgroup('/x').id != first
        assert made.kernel.covered() == {made.cgroups.cgroup('/x').id: 1}
        assert made.kernel.listeners == dict.fromkeys(LISTENERS, 1)
        made.clock.advance(1)
        assert len(made.kernel.searches) == searches + 1
        made.cgroups.move('/x', Place(made.cgroups.cgroup('/x')))
        assert made.kernel.listeners == {}

    run(story)


def test_what_does_not_exist_is_refused_or_waited_for() -> None:
    """What is remembered waits in any case: it may have been removed for an upgrade."""

    async def story() -> None:
        made = world()
        await made.engine.start()
        for name in ('/nowhere/x', 'unknown.service'):
            with pytest.raises(InvalidTarget):
                await made.engine.enable(name)
            assert rows(made) == []
            await made.engine.enable(name, wait=True)
            assert rows(made) == [(name, State.WAITING)]
            following = made.restart()
            await following.engine.start()
            assert rows(following) == [(name, State.WAITING)]
            await following.engine.disable(name)
            made = following

    run(story)


def test_a_kernel_issue_must_be_accepted() -> None:
    async def story() -> None:
        made = world([ISSUE])
        await made.engine.start()
        before = Everything.of(made)
        with pytest.raises(KernelIssue, match='enable --accept fionread /x'):
            await made.engine.enable('/x')
        # As somebody may paste it into a shell.
        with pytest.raises(KernelIssue, match=r"enable --accept fionread 'app@a\\x2db.service'$"):
            await made.engine.enable(r'app@a\x2db.service')
        with pytest.raises(KernelIssue, match='there is no kernel issue named "nonsense"'):
            await made.engine.enable('/x', {'AcceptKernelIssues': 'nonsense fionread'})
        assert Everything.of(made) == before
        await made.engine.enable('/x', {'AcceptKernelIssues': 'fionread'})
        assert made.files.written.lasting == {'/x': {'AcceptKernelIssues': 'fionread'}}

    run(story)


def test_every_issue_that_is_left_is_said_at_once() -> None:
    async def story() -> None:
        made = world([ISSUE, Finding('splice', 'issue', 'splice() loses bytes'), Finding('ktls', 'note', 'x')])
        await made.engine.start()
        with pytest.raises(KernelIssue, match=r'And splice\(\) loses .* --accept fionread --accept splice /x'):
            await made.engine.enable('/x')
        with pytest.raises(KernelIssue, match=r'enabled: splice\(\) loses .* accept it: .* --accept splice /x'):
            await made.engine.enable('/x', {'AcceptKernelIssues': 'fionread'})
        await made.engine.enable('/x', {'AcceptKernelIssues': 'fionread splice'})

    run(story)


def test_lasting_and_runtime() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        await made.engine.enable('/lasting')
        await made.engine.enable('/runtime', runtime=True)
        assert [row.detail for row in made.engine.targets()] == [
            'cgroup /lasting', 'cgroup /runtime; until sockaccel is stopped',
        ]  # fmt: skip
        await made.engine.disable('/lasting', runtime=True)
        assert rows(made) == [('/runtime', State.ACTIVE)]
        # As after a crash.
        following = made.restart()
        await following.engine.start()
        assert rows(following) == [('/runtime', State.ACTIVE)]
        assert await following.engine.stop() == []
        after = following.restart()
        await after.engine.start()
        assert rows(after) == [('/lasting', State.ACTIVE)]

    run(story)


def test_stop_takes_everything_out_of_the_kernel() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        empty = made.kernel.contents()
        made.cgroups.listeners['/x'] = LISTENERS
        await made.engine.enable('/x')
        # After this one a search for sockets is due.
        await made.engine.enable('/y')
        assert made.clock.due()
        made.kernel.unread = {1: 2}
        held = await made.engine.stop()
        assert [end.slot for end in held] == [1, 1]
        assert made.kernel.contents() == empty
        assert made.clock.due() == []
        assert set(made.files.written.lasting) == {'/x', '/y'}

    run(story)


def test_leave_changes_nothing_and_the_next_daemon_goes_on() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        made.cgroups.listeners['/x'] = LISTENERS
        await made.engine.enable('/x')
        await made.engine.enable('/y')
        made.kernel.table[1][0] = 7
        before = made.kernel.contents()
        await made.engine.leave()
        assert made.clock.due() == []
        assert made.kernel.contents() == before
        following = made.restart()
        await following.engine.start()
        assert following.kernel.contents() == before
        assert following.engine.target_stats('/x')[COUNTERS[0].name] == 7
        # A target that comes next is told from all earlier ones.
        await following.engine.enable('/z')
        assert following.kernel.generations[3] == 3

    run(story)


def test_what_nobody_remembers_is_switched_off() -> None:
    async def story() -> None:
        made = world()
        made.kernel.attached = True
        for slot, generation in ((4, 9), (5, 8)):
            made.kernel.set_target(slot, generation, Policy())
            made.kernel.cover(slot * 100, slot)
        made.kernel.serve(LISTENERS, 5)
        made.kernel.unread = {4: 1}
        made.files.written.slots[4] = Slot('/gone', 9, (0,) * len(COUNTERS))
        following = made.restart()
        await following.engine.start()
        assert following.kernel.contents() == Contents(True, {}, {}, {})
        assert following.kernel.generations[4:6] == [9, 8]
        # What drains keeps its name over the next restarts too.
        for _restart in range(2):
            assert rows(following) == [('/gone', State.DRAINING)]
            following = following.restart()
            await following.engine.start()

    run(story)


@pytest.mark.parametrize(
    'slot',
    [
        Slot('/x', 8, (1,) * len(COUNTERS)),
        Slot('/x', 9, (1,) * (len(COUNTERS) - 1)),
    ],
    ids=['another generation', 'counters of another version'],
)
def test_a_slot_that_is_not_as_remembered_is_not_used(slot: Slot) -> None:
    async def story() -> None:
        made = world()
        made.kernel.set_target(4, 9, Policy())
        made.files.written.lasting['/x'] = {}
        made.files.written.slots[4] = slot
        following = made.restart()
        await following.engine.start()
        assert following.kernel.contents().on == {1: (10, Policy())}
        assert set(following.engine.target_stats('/x').values()) == {0}

    run(story)


def test_a_remembered_target_that_is_refused() -> None:
    async def story() -> None:
        made = world()
        accepted = {'AcceptKernelIssues': 'fionread'}
        made.files.written = Desired(lasting={'/x': {}, 'nonsense': {}, '/y': accepted})
        following = made.restart([ISSUE])
        await following.engine.start()
        assert rows(following) == [('/y', State.ACTIVE), ('/x', State.REFUSED), ('nonsense', State.REFUSED)]
        await following.engine.reload(defaults(**accepted))
        assert rows(following) == [('/y', State.ACTIVE), ('/x', State.ACTIVE), ('nonsense', State.REFUSED)]
        assert set(following.files.written.lasting) == {'/x', '/y', 'nonsense'}

    run(story)


def test_a_refused_target_can_be_disabled_and_enabled() -> None:
    async def story() -> None:
        made = world()
        made.files.written = Desired(lasting={'/x': {}, '/y': {}})
        following = made.restart([ISSUE])
        await following.engine.start()
        before = Everything.of(following)
        following.failures.plan('write', StateNotSaved('the disk is full'))
        with pytest.raises(StateNotSaved):
            await following.engine.disable('/x')
        assert Everything.of(following) == before
        await following.engine.disable('/x')
        assert rows(following) == [('/y', State.REFUSED)]
        await following.engine.enable('/y', {'AcceptKernelIssues': 'fionread'})
        assert rows(following) == [('/y', State.ACTIVE)]
        assert following.files.written.lasting == {'/y': {'AcceptKernelIssues': 'fionread'}}

    run(story)


def test_a_start_that_cannot_write_goes_on() -> None:
    async def story() -> None:
        made = world()
        made.files.written = Desired(lasting={'/x': {}})
        following = made.restart()
        following.failures.plan('write', StateNotSaved('the disk is full'))
        await following.engine.start()
        assert rows(following) == [('/x', State.ACTIVE)]

    run(story)


def test_reload_reaches_every_target() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        await made.engine.enable('/x')
        await made.engine.enable('/y')
        policy, changes = Policy(blocking_readers=True), made.changes
        await made.engine.reload(defaults(BlockingReaders='yes'))
        assert made.kernel.contents().on == {1: (1, policy), 2: (2, policy)}
        await made.engine.enable('/z')
        assert made.kernel.policies[3] == policy
        assert made.changes == changes + 2

    run(story)


def test_there_is_a_limit() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        for number in range(1, MAX_TARGETS):
            await made.engine.enable(f'/{number}')
        assert sorted(made.kernel.policies) == list(range(1, MAX_TARGETS))
        with pytest.raises(LimitExceeded):
            await made.engine.enable('/x')
        assert '/x' not in made.cgroups.followed
        # A slot that drains is not free either.
        made.kernel.unread = {7: 1}
        await made.engine.disable('/7')
        with pytest.raises(LimitExceeded):
            await made.engine.enable('/x')
        made.kernel.unread = {}
        made.engine._sweeper.sweep()
        await made.engine.enable('/x')
        assert made.kernel.contents().on[7][0] == MAX_TARGETS

    run(story)


def test_changes_wait_for_each_other() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        tasks = [asyncio.ensure_future(made.engine.enable('/x')) for _caller in range(3)]
        tasks += [asyncio.ensure_future(made.engine.disable('/x'))]
        await asyncio.gather(*tasks)
        assert made.failures.calls.count('follow') == 1
        assert (rows(made), made.kernel.contents().on) == ([], {})

    run(story)


def test_a_caller_that_gives_up_undoes_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        before = Everything.of(made)
        entered, release = asyncio.Event(), asyncio.Event()

        async def for_ever(target: Target, *, must_exist: bool) -> Place:
            entered.set()
            await release.wait()
            raise AssertionError

        monkeypatch.setattr(made.cgroups, 'follow', for_ever)
        task = asyncio.ensure_future(made.engine.enable('/x'))
        await entered.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        monkeypatch.undo()
        assert Everything.of(made) == before

    run(story)


def test_a_target_that_is_too_deep_is_refused_and_says_so() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        deep = '/x' * MAX_TARGET_LEVELS
        with pytest.raises(LimitExceeded, match=f'{MAX_TARGET_LEVELS} levels below the root'):
            await made.engine.enable(deep)
        await made.engine.enable('/x' * (MAX_TARGET_LEVELS - 1))
        await made.engine.enable('a.service')
        made.cgroups.move('a.service', Place(made.cgroups.cgroup(deep)))
        assert [status.detail for status in made.engine.targets() if status.name == 'a.service'] == [
            f'its cgroup is {MAX_TARGET_LEVELS} levels below the root, and a target can be at most '
            f'{MAX_TARGET_LEVELS - 1}'
        ]

    asyncio.run(story())
