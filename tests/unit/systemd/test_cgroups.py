# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the cgroups of targets are, over directories that need no cgroup2 file system."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from sockaccel.core.target import Target
from sockaccel.errors import InvalidTarget
from sockaccel.systemd.cgroups import Cgroups


class FakeUnits:
    """sockaccel.systemd.cgroups.Units. paths: of each unit; without systemd None."""

    def __init__(self) -> None:
        self.paths: dict[str, str] | None = {}
        self.moved: dict[str, Callable[[], None]] = {}
        self.ports: dict[str, int] = {}

    async def follow(self, unit: str, moved: Callable[[], None]) -> str | None:
        if self.paths is None:
            return None
        self.moved[unit] = moved
        return await self.place(unit)

    async def place(self, unit: str) -> str:
        assert self.paths is not None
        if unit == 'bad.service':
            raise InvalidTarget('unit "bad.service" cannot be used')
        return self.paths.get(unit, '')

    async def listeners(self, unit: str) -> frozenset[tuple[str, int]]:
        return frozenset({('127.0.0.1', self.ports[unit])} if unit in self.ports else ())

    def forget(self, unit: str) -> None:
        self.moved.pop(unit, None)


@pytest.fixture
def units() -> FakeUnits:
    return FakeUnits()


@pytest.fixture
def cgroups(tmp_path: Path, units: FakeUnits, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cgroups]:
    monkeypatch.setattr('sockaccel.systemd.cgroups.cgroup2_mount', lambda: tmp_path)
    cgroups = Cgroups(units)
    yield cgroups
    cgroups.close()


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def told_of(cgroups: Cgroups) -> list[str]:
    told: list[str] = []
    cgroups.when_moved(told.append)
    return told


def test_a_path_that_exists_or_must(cgroups: Cgroups, tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / 'x').mkdir()
        place = await cgroups.follow(Target.parse('/x'))
        assert place.cgroup
        assert (place.cgroup.path, place.cgroup.id) == ('/x', (tmp_path / 'x').stat().st_ino)
        assert (await cgroups.follow(Target.parse(f'{tmp_path}/x'))).cgroup == place.cgroup
        with pytest.raises(InvalidTarget, match='does not exist below'):
            await cgroups.follow(Target.parse('/nowhere'))
        assert (
            await cgroups.follow(Target.parse('/nowhere'), must_exist=False)
        ).why == 'its cgroup does not exist yet'
        (tmp_path / 'file').touch()
        with pytest.raises(InvalidTarget):
            await cgroups.follow(Target.parse('/file'))

    run(story())


def test_a_cgroup_that_comes_and_goes_with_the_directories_above(cgroups: Cgroups, tmp_path: Path) -> None:
    async def story() -> None:
        told = told_of(cgroups)
        await cgroups.follow(Target.parse('/a/b/c'), must_exist=False)
        for _round in range(3):
            (tmp_path / 'a/b/c').mkdir(parents=True)
            # Each event tells of one level.
            for _level in range(3):
                cgroups.consume()
            assert told == ['/a/b/c']
            assert cgroups.place('/a/b/c').cgroup
            for directory in ('a/b/c', 'a/b', 'a'):
                (tmp_path / directory).rmdir()
            cgroups.consume()
            assert told == ['/a/b/c'] * 2
            assert cgroups.place('/a/b/c').cgroup is None
            told.clear()

    run(story())


def test_what_happens_elsewhere_wakes_nobody(cgroups: Cgroups, tmp_path: Path) -> None:
    async def story() -> None:
        told = told_of(cgroups)
        (tmp_path / 'x').mkdir()
        await cgroups.follow(Target.parse('/x'))
        for directory in ('x/below', 'beside', 'beside/below'):
            (tmp_path / directory).mkdir()
        cgroups.consume()
        assert told == []
        # Below a target, and below what is beside it, nothing is watched.
        assert list(cgroups._watches.values()) == ['/']
        cgroups.forget('/x')
        assert cgroups._watches == {}

    run(story())


def test_a_unit_is_followed_wherever_it_goes(cgroups: Cgroups, units: FakeUnits, tmp_path: Path) -> None:
    async def story() -> None:
        told = told_of(cgroups)
        (tmp_path / 'one').mkdir()
        with pytest.raises(InvalidTarget, match='systemd does not know unit "x.service": check its name, or'):
            await cgroups.follow(Target.parse('x.service'))
        place = await cgroups.follow(Target.parse('x.service'), must_exist=False)
        assert place.why == 'systemd does not know it yet'
        units.paths = {'x.service': '/one'}
        units.ports = {'x.service': 80}
        units.moved['x.service']()
        # Asked twice meanwhile, it asks once more.
        units.moved['x.service']()
        await answered(cgroups)
        place = cgroups.place('x.service')
        assert place.cgroup
        assert (place.cgroup.path, place.listeners) == ('/one', frozenset({('127.0.0.1', 80)}))
        assert told == ['x.service']
        # A unit that has ended will be where it was.
        units.paths = {}
        units.moved['x.service']()
        await answered(cgroups)
        assert cgroups.place('x.service') == place
        cgroups.forget('x.service')
        assert units.moved == {}

    run(story())


async def answered(cgroups: Cgroups) -> None:
    """Until no unit is asked for any more."""
    while tasks := [followed.asking for followed in cgroups._followed.values() if followed.asking]:
        await asyncio.gather(*tasks)


def test_a_unit_that_cannot_be_used(cgroups: Cgroups) -> None:
    async def story() -> None:
        with pytest.raises(InvalidTarget):
            await cgroups.follow(Target.parse('bad.service'))
        assert cgroups._followed == {}

    run(story())


def test_what_is_outside_the_root_is_refused(
    tmp_path: Path, units: FakeUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('sockaccel.systemd.cgroups.cgroup2_mount', lambda: tmp_path)
    for directory in ('root/x', 'rootless'):
        (tmp_path / directory).mkdir(parents=True)
    with pytest.raises(InvalidTarget, match='the cgroup root "/nowhere" does not exist'):
        Cgroups(units, '/nowhere')
    cgroups = Cgroups(units, '/root')

    async def story() -> None:
        assert (await cgroups.follow(Target.parse('/root/x'))).cgroup
        everything = (await cgroups.follow(Target.parse('*'))).cgroup
        assert everything
        assert everything.path == '/root'
        for name in ('/rootless', '/'):
            with pytest.raises(InvalidTarget, match='confined to'):
                await cgroups.follow(Target.parse(name))
        units.paths = {'x.service': '/rootless'}
        with pytest.raises(InvalidTarget, match='confined to'):
            await cgroups.follow(Target.parse('x.service'))

    try:
        run(story())
    finally:
        cgroups.close()


def test_without_systemd_a_unit_is_found_by_its_name(cgroups: Cgroups, units: FakeUnits, tmp_path: Path) -> None:
    units.paths = None

    async def story() -> None:
        (tmp_path / 'a.slice/x.service').mkdir(parents=True)
        place = await cgroups.follow(Target.parse('x.service'))
        assert place.cgroup
        assert place.cgroup.path == '/a.slice/x.service'
        with pytest.raises(InvalidTarget, match='there is no systemd to ask'):
            await cgroups.follow(Target.parse('y.service'))
        (tmp_path / 'b.slice/x.service').mkdir(parents=True)
        with pytest.raises(InvalidTarget, match='could be any of'):
            await cgroups.follow(Target.parse('x.service'))

    run(story())


def test_paths_by_id(cgroups: Cgroups, tmp_path: Path) -> None:
    (tmp_path / 'a/b').mkdir(parents=True)
    (tmp_path / 'a/file').touch()
    ids = {
        path.stat().st_ino: name
        for path, name in ((tmp_path, '/'), (tmp_path / 'a', '/a'), (tmp_path / 'a/b', '/a/b'))
    }
    assert cgroups.paths() == ids
