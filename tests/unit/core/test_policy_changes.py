# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes of policies, and targets that come and go with files: done as a whole, or not at all."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from structlog.testing import capture_logs

from sockaccel.core.desired import Desired
from sockaccel.core.limits import MAX_TARGETS
from sockaccel.core.policies import Policies, Section, layer_of
from sockaccel.core.policy import Layer, Policy
from sockaccel.core.target import State
from sockaccel.errors import (
    InvalidArgument,
    InvalidConfiguration,
    KernelIssue,
    ManagedByFile,
    SockaccelError,
    StateNotSaved,
    UnknownTarget,
)
from tests.support.memory_kernel import ISSUE, World, defaults, world

FIONREAD = {'AcceptKernelIssues': 'fionread'}
BLOCKING = {'BlockingReaders': 'yes'}
PORTS = ' '.join(map(str, range(1, 41)))


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(story())


def files(*names: str, **texts: str) -> Policies:
    """What files with sections of these targets say, each with these keys."""
    return Policies(Layer(), {name: Section(f'/f:{at}', layer_of(texts)) for at, name in enumerate(names, 1)})


def rows(made: World) -> list[tuple[str, State]]:
    return [(row.name, row.state) for row in made.engine.targets()]


def everything(made: World) -> tuple[Any, ...]:
    """All that a change of a policy changes anywhere."""
    desired = made.engine._transactions.desired.copy()
    return made.kernel.contents(), made.files.written, desired, made.engine.targets()


def sources(made: World, name: str) -> dict[str, tuple[str, str]]:
    """What is not the default in the policy of a target."""
    (row,) = (row for row in made.engine.targets() if row.name == name)
    return {key: (value, source) for key, value, source in row.policy if source}


def test_each_target_has_its_own_policy() -> None:
    async def story() -> None:
        made = world(policies=defaults(JoinDelayMs='50'))
        await made.engine.start()
        await made.engine.enable('/x', {'BlockingReaders': 'on', 'IncludePorts': '80'})
        await made.engine.enable('/y')
        assert made.kernel.policies == {
            1: Policy(blocking_readers=True, include_ports=layer_of({'IncludePorts': '80'}).values['IncludePorts'],
                      join_delay_ms=50),
            2: Policy(join_delay_ms=50),
        }  # fmt: skip
        assert made.files.written.lasting == {'/x': {'BlockingReaders': 'yes', 'IncludePorts': '80'}, '/y': {}}
        assert sources(made, '/x') == {'BlockingReaders': ('yes', 'set'), 'IncludePorts': ('80', 'set'),
                                       'JoinDelayMs': ('50', 'set')}  # fmt: skip

    run(story)


def test_set_reaches_the_kernel_and_the_next_daemon() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        await made.engine.enable('/x', BLOCKING)
        await made.engine.enable('/runtime', runtime=True)
        made.clock.advance(1)
        sweeps, changes = len(made.kernel.sweeps), made.changes
        await made.engine.set_policy('//x/', {'JoinDelayMs': '7', 'BlockingReaders': ''})
        await made.engine.set_policy('/runtime', BLOCKING)
        assert made.changes == changes + 2
        assert made.kernel.contents().on == {
            1: (1, Policy(join_delay_ms=7)), 2: (2, Policy(blocking_readers=True)),
        }  # fmt: skip
        assert sources(made, '/x') == {'JoinDelayMs': ('7', 'set')}
        # What may join now does so at once, and members that are not suitable any more leave a moment later.
        assert len(made.kernel.sweeps) == sweeps + 1
        made.clock.advance(1)
        assert len(made.kernel.sweeps) == sweeps + 2
        following = made.restart()
        await following.engine.start()
        assert following.kernel.contents() == made.kernel.contents()
        assert sources(following, '/x') == {'JoinDelayMs': ('7', 'set')}
        # That of the runtime goes with the daemon.
        assert await following.engine.stop() == []
        after = following.restart()
        await after.engine.start()
        assert after.kernel.policies == {1: Policy(join_delay_ms=7)}

    run(story)


@pytest.mark.parametrize(
    ('name', 'settings', 'error'),
    [
        ('/x', {'Nonsense': '5'}, InvalidArgument),
        ('/x', {'JoinDelayMs': '5', 'IncludePorts': 'x'}, InvalidArgument),
        ('/x', {'IncludePorts': PORTS, 'ExcludePorts': PORTS}, InvalidArgument),
        ('/x', {'AcceptKernelIssues': ''}, KernelIssue),
        ('/x', {'AcceptKernelIssues': 'nonsense fionread'}, KernelIssue),
        ('/other', BLOCKING, UnknownTarget),
        ('/off', BLOCKING, UnknownTarget),
        ('/file', BLOCKING, ManagedByFile),
    ],
)
def test_a_set_that_is_refused_changes_nothing(
    name: str, settings: dict[str, str], error: type[SockaccelError]
) -> None:
    async def story() -> None:
        made = world([ISSUE], files('/file', **FIONREAD))
        await made.engine.start()
        for target in ('/x', '/off'):
            await made.engine.enable(target, FIONREAD)
        await made.engine.disable('/off', runtime=True)
        before = everything(made)
        with pytest.raises(error):
            await made.engine.set_policy(name, settings)
        assert everything(made) == before
        if error in (InvalidArgument, ManagedByFile):
            with pytest.raises(error):
                await made.engine.enable(name, settings)
        assert everything(made) == before

    run(story)


@pytest.mark.parametrize('step', ['set_target', 'write'])
def test_a_step_of_set_that_fails_undoes_all(step: str) -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        await made.engine.enable('/x')
        before = everything(made)
        for change in (made.engine.set_policy, made.engine.enable):
            made.failures.plan(step, StateNotSaved('the disk is full'))
            with pytest.raises(StateNotSaved):
                await change('/x', BLOCKING)
            assert everything(made) == before

    run(story)


def test_set_enables_what_was_refused_for_its_policy() -> None:
    async def story() -> None:
        made = world()
        made.files.written = Desired(lasting={'/x': {}, '/y': {'IncludeUsers': 'nobody-of-this-name'}})
        following = made.restart([ISSUE])
        await following.engine.start()
        assert rows(following) == [('/x', State.REFUSED), ('/y', State.REFUSED)]
        assert 'which is no user of this host' in following.engine.targets()[1].detail
        await following.engine.set_policy('/x', FIONREAD)
        with pytest.raises(KernelIssue):
            await following.engine.set_policy('/y', {'IncludeUsers': 'root'})
        await following.engine.set_policy('/y', {'IncludeUsers': 'root', **FIONREAD})
        assert rows(following) == [('/x', State.ACTIVE), ('/y', State.ACTIVE)]

    run(story)


def test_a_policy_cannot_be_of_the_runtime_where_the_target_is_lasting() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        await made.engine.enable('/x')
        before = everything(made)
        with pytest.raises(InvalidArgument, match='is enabled for good'):
            await made.engine.enable('/x', BLOCKING, runtime=True)
        assert everything(made) == before

    run(story)


def test_targets_come_and_go_with_files() -> None:
    async def story() -> None:
        made = world(policies=files('/x', **BLOCKING))
        await made.engine.start()
        assert rows(made) == [('/x', State.ACTIVE)]
        assert sources(made, '/x') == {'BlockingReaders': ('yes', 'set')}
        assert made.engine.targets()[0].file == '/f:1'
        with capture_logs() as lines:
            await made.engine.reload(files('/y', '/nowhere/x', '/x', JoinDelayMs='5'))
        assert rows(made) == [('/x', State.ACTIVE), ('/y', State.ACTIVE), ('/nowhere/x', State.WAITING)]
        assert [line['event'] for line in lines] == [
            'Enabled "/y" (cgroup "/y"), as /f:1 says',
            'Enabled "/nowhere/x" (waiting: its cgroup does not exist yet), as /f:2 says',
        ]
        assert made.kernel.policies == dict.fromkeys((1, 2, 3), Policy(join_delay_ms=5))
        # They are nobody's wish but the file's.
        assert made.files.written.lasting == made.files.written.runtime == {}
        with capture_logs() as lines:
            await made.engine.reload(files('/x'))
        assert rows(made) == [('/x', State.ACTIVE)]
        assert [line['event'] for line in lines] == [
            'Disabled "/y": no file has it any more', 'Disabled "/nowhere/x": no file has it any more',
        ]  # fmt: skip
        following = made.restart(policies=files('/x'))
        await following.engine.start()
        # In its slot, with its connections and counters.
        assert following.kernel.contents() == made.kernel.contents()
        after = following.restart()
        await after.engine.start()
        assert (rows(after), after.kernel.contents().on) == ([], {})

    run(story)


def test_a_target_of_a_file_is_not_disabled_for_good() -> None:
    async def story() -> None:
        made = world(policies=files('/x'))
        await made.engine.start()
        before = everything(made)
        with pytest.raises(ManagedByFile, match=r'"/x" is enabled by /f:1.* sockaccelctl disable --runtime /x$'):
            await made.engine.disable('/x')
        assert everything(made) == before
        await made.engine.disable('/x', runtime=True)
        assert (rows(made), made.kernel.contents().on) == ([], {})
        # Not by a reload, nor after a crash.
        await made.engine.reload(files('/x', **BLOCKING))
        assert rows(made) == []
        crashed = made.restart(policies=files('/x'))
        await crashed.engine.start()
        assert rows(crashed) == []
        await crashed.engine.enable('/x', runtime=True)
        assert rows(crashed) == [('/x', State.ACTIVE)]
        assert crashed.files.written.runtime == {}
        await crashed.engine.disable('/x', runtime=True)
        await crashed.engine.stop()
        after = crashed.restart(policies=files('/x'))
        await after.engine.start()
        assert rows(after) == [('/x', State.ACTIVE)]

    run(story)


def test_a_section_that_was_gone_enables_again() -> None:
    async def story() -> None:
        made = world(policies=files('/x'))
        await made.engine.start()
        await made.engine.disable('/x', runtime=True)
        await made.engine.reload(files())
        assert made.files.written.runtime == {}
        await made.engine.reload(files('/x'))
        assert rows(made) == [('/x', State.ACTIVE)]

    run(story)


def test_what_was_enabled_by_hand_too_stays_when_the_section_goes() -> None:
    async def story() -> None:
        made = world([ISSUE])
        await made.engine.start()
        await made.engine.enable('/x', {**FIONREAD, **BLOCKING})
        await made.engine.reload(files('/x', JoinDelayMs='5'))
        # The section has its policy. What was accepted stays accepted.
        assert made.kernel.policies == {1: Policy(frozenset({'fionread'}), join_delay_ms=5)}
        await made.engine.reload(files())
        assert made.kernel.policies == {1: Policy(frozenset({'fionread'}), blocking_readers=True)}
        assert rows(made) == [('/x', State.ACTIVE)]

    run(story)


def test_a_target_of_a_file_that_is_refused() -> None:
    async def story() -> None:
        made = world([ISSUE], files('/x'))
        await made.engine.start()
        (refused,) = made.engine.targets()
        assert (refused.state, refused.file) == (State.REFUSED, '/f:1')
        assert refused.detail.endswith('accept it: AcceptKernelIssues=fionread after /f:1')
        await made.engine.reload(files('/x', **FIONREAD))
        assert rows(made) == [('/x', State.ACTIVE)]
        # Nobody accepts it any more: what a restart would refuse is not left on.
        await made.engine.reload(files('/x'))
        assert (rows(made), made.kernel.contents().on) == ([('/x', State.REFUSED)], {})
        await made.engine.reload(files())
        assert rows(made) == []

    run(story)


def test_more_targets_of_files_than_there_can_be() -> None:
    async def story() -> None:
        made = world(policies=files(*(f'/{number}' for number in range(MAX_TARGETS + 1))))
        await made.engine.start()
        states = [state for _name, state in rows(made)]
        assert (states.count(State.ACTIVE), states.count(State.REFUSED)) == (MAX_TARGETS - 1, 2)

    run(story)


def test_a_reload_that_cannot_be_is_refused_as_a_whole() -> None:
    """The defaults and what was set for a target are too many together."""

    async def story() -> None:
        made = world()
        await made.engine.start()
        await made.engine.enable('/x', {'ExcludePorts': PORTS})
        before = everything(made)
        wanted = Policies(layer_of({'IncludePorts': PORTS}), files('/y').sections)
        with pytest.raises(InvalidConfiguration, match='the policy of target "/x" has 80'):
            await made.engine.reload(wanted)
        assert everything(made) == before

    run(story)


def test_a_reload_that_cannot_write_goes_on() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        made.failures.plan('write', StateNotSaved('the disk is full'))
        with capture_logs() as lines:
            await made.engine.reload(files('/x'))
        assert rows(made) == [('/x', State.ACTIVE)]
        assert 'the disk is full, ignoring' in lines[-1]['event']

    run(story)


def test_the_first_candidate_decides_when_the_next_sweep_is() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        assert made.engine._transactions.join_after_s() == 0
        await made.engine.enable('/x', {'JoinDelayMs': '400'})
        await made.engine.enable('/y', {'JoinDelayMs': '30'})
        assert made.engine._transactions.join_after_s() == 0.03

    run(story)


WIDER = (
    {'BlockingReaders': 'yes'}, {'OtherNamespaces': 'yes'}, {'ExcludePorts': ''}, {'ExcludePorts': '80'},
    {'AdoptConnections': 'yes'},
)  # fmt: skip
NARROWER = ({'OtherNamespaces': 'no'}, {'HeartbeatSeconds': '7'}, {'AdoptConnections': 'no'})


@pytest.mark.parametrize(('change', 'is_wider'), [(c, True) for c in WIDER] + [(c, False) for c in NARROWER])
def test_what_the_earlier_policy_left_to_tcp_is_looked_for(change: dict[str, str], is_wider: bool) -> None:  # noqa: FBT001
    async def story() -> None:
        made = world()
        await made.engine.start()
        adopts = 'no' if change == {'AdoptConnections': 'yes'} else 'yes'
        before = {'ExcludePorts': '443', 'AdoptConnections': adopts}
        if not is_wider:
            before |= {'OtherNamespaces': 'yes'}
        await made.engine.enable('/x', before)
        made.clock.advance(1)
        searches = len(made.kernel.searches)
        await made.engine.set_policy('/x', change)
        made.clock.advance(1)
        assert len(made.kernel.searches) == searches + is_wider

    run(story)


def test_a_wider_policy_that_adopts_nothing_looks_for_nothing() -> None:
    async def story() -> None:
        made = world()
        await made.engine.start()
        await made.engine.enable('/x', {'AdoptConnections': 'no'})
        made.clock.advance(1)
        searches = len(made.kernel.searches)
        await made.engine.set_policy('/x', {'OtherNamespaces': 'yes'})
        made.clock.advance(1)
        assert len(made.kernel.searches) == searches

    run(story)
