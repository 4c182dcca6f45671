# SPDX-License-Identifier: GPL-2.0-or-later
"""What is led to proxies: each change is done as a whole, or undone and raised."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from sockaccel.core.interception import Interception
from sockaccel.core.led import Owner
from sockaccel.core.led_keys import Led
from sockaccel.core.limits import MAX_INTERCEPTIONS, MAX_NETWORKS
from sockaccel.core.target import State
from sockaccel.errors import (
    InvalidArgument,
    KernelRefused,
    LimitExceeded,
    ManagedByFile,
    SockaccelError,
    StateNotSaved,
    UnknownTarget,
)
from tests.support.memory_lead import LeadWorld

APP, PROXY = 'app.service', 'envoy.service'


def intercept(world: LeadWorld, target: str = APP, proxy: str = PROXY, **options: Any) -> None:
    asyncio.run(world.all.intercept(target, proxy, options))


def owners(world: LeadWorld) -> dict[str, Owner]:
    """By the name of the place."""
    return {name: owner for (_parent, name), owner in world.kernel.now.spots.items()}


def test_what_is_led() -> None:
    world = LeadWorld()
    intercept(world, except_ports=['22', '8000-8999'], except_users=['root'])
    target, proxy = Owner(is_proxy=False, number=1), Owner(is_proxy=True, number=1)
    assert owners(world) == {APP: target, PROXY: proxy}
    assert set(world.kernel.now.owners.values()) == {target, proxy}
    assert world.kernel.answered == {f'/system.slice/{PROXY}'}
    assert world.kernel.slots[1][1] == proxy
    assert world.kernel.attached
    (row,) = world.all.rows()
    assert (row.state, row.proxy_is_down, row.counters) == (State.ACTIVE, False, {'led': 1})
    assert [rule.text for rule in row.interception.rules] == ['22', '8000-8999', 'root']


def test_the_programs_are_loaded_when_something_is_led() -> None:
    world = LeadWorld()
    asyncio.run(world.all.start(None))
    assert world.loads == 0
    intercept(world)
    intercept(world, 'other.service')
    assert world.loads == 1


def test_two_targets_share_a_proxy_until_the_last_is_released() -> None:
    world = LeadWorld()
    intercept(world)
    intercept(world, 'other.service')
    assert owners(world)['other.service'] == Owner(is_proxy=False, number=2)
    assert world.kernel.slots[1][1] == world.kernel.slots[2][1]
    asyncio.run(world.all.release(APP))
    assert owners(world).keys() == {'other.service', PROXY}
    assert world.kernel.attached
    assert 1 not in world.kernel.slots
    asyncio.run(world.all.release('other.service'))
    assert not world.kernel.attached
    assert not world.kernel.answered
    assert not world.tree.followed
    assert world.file.entries == []


def test_what_was_led_reaches_its_proxy_after_a_release() -> None:
    world = LeadWorld()
    intercept(world)
    world.kernel.busy = True
    asyncio.run(world.all.release(APP))
    assert not world.kernel.leads
    assert world.kernel.attached
    assert world.kernel.answered
    world.kernel.busy = False
    world.all.drained()
    assert not world.kernel.attached
    assert not world.kernel.answered


@pytest.mark.parametrize('step', ['set_slot', 'put', 'attach', 'write'])
def test_a_step_that_fails_is_undone(step: str) -> None:
    world = LeadWorld()
    world.kernel.fails, world.file.fails = step, step == 'write'
    with pytest.raises((KernelRefused, StateNotSaved)):
        intercept(world)
    assert not world.kernel.now.spots
    assert not world.kernel.slots
    assert not world.kernel.attached
    assert not world.all.rows()
    assert not world.tree.followed


@pytest.mark.parametrize('step', ['attach', 'write'])
def test_a_change_that_fails_is_undone(step: str) -> None:
    world = LeadWorld()
    intercept(world, outbound=15009)
    before = world.kernel.now, dict(world.kernel.slots), world.all.rows()
    world.kernel.fails, world.file.fails = step, step == 'write'
    with pytest.raises((KernelRefused, StateNotSaved)):
        intercept(world, proxy='other.service', outbound=15002)
    assert (world.kernel.now, dict(world.kernel.slots), world.all.rows()) == before
    assert world.kernel.attached
    assert world.tree.followed == {APP, PROXY}


def test_a_release_that_cannot_be_written_changes_nothing() -> None:
    world = LeadWorld()
    intercept(world)
    world.file.fails = True
    with pytest.raises(StateNotSaved):
        asyncio.run(world.all.release(APP))
    assert world.kernel.attached
    assert [row.interception.target for row in world.all.rows()] == [APP]
    with pytest.raises(UnknownTarget, match='are not led to a proxy'):
        asyncio.run(world.all.release('other.service'))


def test_the_next_daemon_goes_on() -> None:
    world = LeadWorld()
    intercept(world, when_down='bypass', except_users=['root'], except_addresses=['10.0.0.0/8'])
    intercept(world, 'other.service', 'other-proxy.service')
    asyncio.run(world.all.release(APP))
    intercept(world, 'third.service', 'other-proxy.service')
    before = world.kernel.now, dict(world.kernel.slots), world.all.rows()
    world.all = world.daemon()
    asyncio.run(world.all.start(world.kernel))
    assert (world.kernel.now, dict(world.kernel.slots), world.all.rows()) == before


def test_a_daemon_whose_programs_do_not_load_leaves_all_as_it_is() -> None:
    world = LeadWorld()
    intercept(world)
    before = world.kernel.now
    world.all = world.daemon()
    asyncio.run(world.all.start(None, 'the kernel says no'))
    (row,) = world.all.rows()
    assert (row.state, row.detail) == (State.REFUSED, 'the kernel says no')
    assert world.kernel.now == before
    assert world.kernel.attached


def test_a_cgroup_that_is_made_anew_keeps_its_place() -> None:
    world = LeadWorld()
    asyncio.run(world.all.start(None))
    intercept(world)
    spots, ids = world.kernel.now.spots, set(world.kernel.now.owners)
    world.tree.missing = {f'/system.slice/{PROXY}'}
    world.tree.tell(PROXY)
    assert world.kernel.now.spots == spots
    assert world.all.rows()[0].proxy_is_down
    assert not world.kernel.answered
    world.tree.missing = set()
    world.tree.renew(f'/system.slice/{PROXY}')
    world.tree.tell(PROXY)
    assert world.kernel.now.spots == spots
    assert set(world.kernel.now.owners) != ids
    assert world.kernel.answered


def test_a_proxy_inside_of_the_unit() -> None:
    world = LeadWorld()
    with pytest.raises(InvalidArgument, match='its own proxy'):
        intercept(world, APP, APP)
    intercept(world, APP, APP, except_users=['root'])
    assert owners(world) == {APP: Owner(is_proxy=False, number=1)}
    assert world.kernel.slots[1][1] == Owner(is_proxy=False, number=1)
    assert world.kernel.answered == {f'/system.slice/{APP}'}


@pytest.mark.parametrize(
    ('target', 'proxy', 'said'),
    [
        (PROXY, 'other.service', 'a proxy is never led itself'),
        ('other.service', APP, 'a proxy is never led itself'),
        (f'/system.slice/{PROXY}/x', PROXY, 'inside of its proxy'),
        (f'/system.slice/{APP}', 'other.service', 'has the same cgroup'),
        ('unknown.service', PROXY, 'does not exist'),
        ('*', PROXY, 'all of this host'),
        ('/', PROXY, 'all of this host'),
        (f'/{"x" * 250}', PROXY, 'a name longer than 247 bytes'),
    ],
)
def test_what_cannot_be_led(target: str, proxy: str, said: str) -> None:
    world = LeadWorld()
    intercept(world)
    before = world.kernel.now, world.all.rows()
    with pytest.raises(SockaccelError, match=said):
        intercept(world, target, proxy)
    assert (world.kernel.now, world.all.rows()) == before
    assert world.tree.followed == {APP, PROXY}


def test_the_limit() -> None:
    world = LeadWorld()
    for number in range(1, MAX_INTERCEPTIONS):
        intercept(world, f'app{number}.service', f'proxy{number}.service')
    assert len({slot[1] for slot in world.kernel.slots.values()}) == MAX_INTERCEPTIONS - 1
    with pytest.raises(LimitExceeded, match='32 targets'):
        intercept(world, 'more.service')
    # Another proxy for one of them is none more.
    intercept(world, 'app1.service', 'another.service')


def test_where_nothing_keeps_the_links() -> None:
    world = LeadWorld(keeps=False)
    with pytest.raises(InvalidArgument, match='--when-down bypass'):
        intercept(world)
    intercept(world, when_down='bypass')


def test_a_proxy_is_told_of_once() -> None:
    world = LeadWorld()
    intercept(world)
    changes = []
    world.all.on_change = lambda: changes.append(world.all.rows()[0].proxy_is_down)
    for down in (False, True, True, False, False):
        world.all.happened(1, down=down, port=15001)
    world.all.happened(7, down=True, port=15001)
    assert changes == [True, False]


def test_a_daemon_that_starts_knows_that_the_proxy_is_down() -> None:
    world = LeadWorld()
    intercept(world)
    world.kernel.down = {1}
    world.all = world.daemon()
    asyncio.run(world.all.start(world.kernel))
    assert world.all.rows()[0].proxy_is_down


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'outbound': 0}, 'outbound port 0'),
        ({'outbound': 65536, 'inbound': ['80=81']}, 'outbound port 65536'),
        ({'inbound': ['80=81', '80=82']}, 'port 80 twice'),
        ({'inbound': ['80=81', '81=82']}, 'port 81 cannot be one of the target and of the proxy'),
        ({'inbound': ['80:81']}, '"80:81"'),
        ({'inbound': ['80=65536']}, 'inbound port 65536'),
        ({'when_down': 'ignore'}, '"refuse", "bypass"'),
        ({'except_ports': ['0']}, '"except_ports" has "0"'),
        ({'except_addresses': ['10.0.0.1/8']}, '"except_addresses" has'),
        ({'except_users': ['nobody-of-that-name']}, 'no user of this host'),
        ({'except_ports': [str(port) for port in range(1, 66)]}, 'there can be 64'),
    ],
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        Interception.parse(APP, PROXY, options)


def test_users_are_remembered_by_number() -> None:
    made = Interception.parse(APP, PROXY, {'except_users': ['root', '5-9'], 'when_down': 'bypass', 'outbound': 9})
    written = made.to_json()
    assert written['except_users'] == [['root', 0, 0], ['5-9', 5, 9]]
    written['except_users'][0][0] = 'gone'
    (user, _range) = Interception.from_json(written).except_users
    assert (user.text, user.first) == ('gone', 0)
    assert Interception.from_json(made.to_json()) == made


def test_ways_in() -> None:
    world = LeadWorld()
    world.tree.listeners[APP] = frozenset({('10.0.0.1', 8080), ('::', 22)})
    intercept(world, inbound=['8080=15006', '8081=15007'])
    intercept(world, 'other.service', inbound=['80=15006'])
    proxy = Owner(is_proxy=True, number=1)
    assert world.kernel.now.doors == {(proxy, 15006), (proxy, 15007)}
    assert world.kernel.now.served == {('10.0.0.1', 8080): 1}
    assert world.kernel.inbound
    asyncio.run(world.all.release(APP))
    assert world.kernel.now.doors == {(proxy, 15006)}
    intercept(world, 'other.service')
    assert not world.kernel.inbound
    assert world.kernel.leads


@pytest.mark.parametrize('when_down', ['refuse', 'bypass'])
def test_a_target_that_listens_where_nothing_can_lead(when_down: str) -> None:
    world = LeadWorld()
    world.kernel.tell_elsewhere = lambda: world.all.elsewhere(1, 4026532000)
    if when_down == 'refuse':
        with pytest.raises(KernelRefused, match='inode 4026532000'):
            intercept(world, inbound=['8080=15006'])
        assert not world.kernel.attached
        assert not world.all.rows()
        return
    intercept(world, inbound=['8080=15006'], when_down='bypass')
    assert world.all.rows()[0].state is State.ACTIVE


def test_nothing_but_what_comes_in() -> None:
    made = Interception.parse(APP, PROXY, {'outbound': 0, 'inbound': ['8080=15006']})
    assert Interception.from_json(made.to_json()) == made
    with pytest.raises(InvalidArgument, match='outbound port 0'):
        Interception.parse(APP, PROXY, {'outbound': 0})


def led(target: str, **options: Any) -> Led:
    return Led(Interception.parse(target, PROXY, options), 'x.conf:2')


def test_what_files_say() -> None:
    world = LeadWorld()
    asyncio.run(world.all.start(None))
    intercept(world, 'other.service')
    asyncio.run(world.all.reload({APP: led(APP, inbound=['8080=15006'])}))
    files = {row.interception.target: row.file for row in world.all.rows()}
    assert files == {'other.service': '', APP: 'x.conf:2'}
    for change in (world.all.release(APP), world.all.intercept(APP, PROXY, {})):
        with pytest.raises(ManagedByFile, match='x.conf:2'):
            asyncio.run(change)
    # The next daemon knows which are of a file that is gone meanwhile.
    world.all = world.daemon()
    asyncio.run(world.all.start(world.kernel))
    asyncio.run(world.all.reload({}))
    assert [row.interception.target for row in world.all.rows()] == ['other.service']
    assert not world.kernel.inbound


def test_what_files_say_and_cannot_be() -> None:
    world = LeadWorld()
    asyncio.run(world.all.start(None))
    world.kernel.fails = 'attach'
    asyncio.run(world.all.reload({APP: led(APP)}))
    (row,) = world.all.rows()
    assert (row.state, row.detail, row.file) == (State.REFUSED, 'attach fails', 'x.conf:2')
    with pytest.raises(ManagedByFile):
        intercept(world)
    world.kernel.fails = ''
    asyncio.run(world.all.reload({APP: led(APP)}))
    assert [row.state for row in world.all.rows()] == [State.ACTIVE]


def test_a_file_may_name_what_is_not_there_yet() -> None:
    world = LeadWorld()
    world.tree.missing = {'/system.slice/unknown.service'}
    asyncio.run(world.all.start(None))
    asyncio.run(world.all.reload({'unknown.service': led('unknown.service')}))
    assert [row.state for row in world.all.rows()] == [State.WAITING]


def test_a_target_cannot_fill_the_journal_with_namespaces() -> None:
    world = LeadWorld()
    intercept(world, inbound=['8080=15006'], when_down='bypass')
    with capture_logs() as lines:
        for network in range(100):
            world.all.elsewhere(1, network)
            world.all.elsewhere(1, network)
        world.all.elsewhere(9, 7)
    assert len(lines) == MAX_NETWORKS
