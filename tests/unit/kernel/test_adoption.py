# SPDX-License-Identifier: GPL-2.0-or-later
"""What an earlier daemon left: the link of a watcher goes with its program, and not before there is another."""

import asyncio
import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from sockaccel.kernel import adoption, libbpf, loader, programs
from sockaccel.kernel.programs import Digests

LAYOUT, CODE, OLD_CODE = 'a' * 16, 'c' * 16, 'b' * 16
WATCHER = min(loader.WATCHERS)


class Store:
    def __init__(self, names: Iterable[str]) -> None:
        self.fds = {name: os.eventfd(0) for name in names}

    keeps = True

    def take(self) -> dict[str, int]:
        return dict(self.fds)

    def keep(self, name: str, fd: int) -> None:
        self.fds[name] = fd

    def drop(self, names: Iterable[str]) -> None:
        for name in list(names):
            self.fds.pop(name, None)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    eventfd, made = os.eventfd, list[int]()

    def open_another(_value: int) -> int:
        made.append(eventfd(0))
        return made[-1]

    async def load(_limit: int, maps: Mapping[str, int] | None = None) -> dict[str, int]:
        names = [*loader.PROGRAMS, *loader.WATCHERS, *(() if maps else loader.MAPS)]
        return {name: os.eventfd(0) for name in names}

    monkeypatch.setattr(programs, 'digests', lambda _limit: Digests(LAYOUT, CODE))
    monkeypatch.setattr(programs, 'load', load)
    monkeypatch.setattr(adoption, '_is_map', lambda _fd, name: name in loader.MAPS)
    monkeypatch.setattr(libbpf, 'map_delete', lambda _fd, _key: True)
    monkeypatch.setattr(os, 'eventfd', open_another)
    yield
    for fd in made:
        with contextlib.suppress(OSError):
            os.close(fd)


def left_by(code: str, layout: str = LAYOUT) -> Store:
    names = [
        f'{layout}-{name}' for name in (*loader.MAPS, *(f'cgroup_link_{name}' for name in loader.CGROUP_PROGRAMS))
    ]
    names += [f'{code}-{name}' for name in (*loader.PROGRAMS, *loader.WATCHERS)]
    return Store([*names, *(f'{code}-link_{name}' for name in loader.WATCHERS)])


def is_open(fd: int) -> bool:
    return Path(f'/proc/self/fd/{fd}').exists()


def test_a_restart_takes_the_links() -> None:
    store = left_by(CODE)
    before = store.take()
    objects = asyncio.run(adoption.obtain(store, 1))
    assert objects.watcher_links[WATCHER] == before[f'{CODE}-link_{WATCHER}']
    assert objects.fds[WATCHER] == before[f'{CODE}-{WATCHER}']
    assert not objects.replaced_watchers
    objects.keep()
    assert store.fds.keys() == before.keys()
    assert all(map(is_open, before.values()))


def test_an_upgrade_keeps_the_old_links_until_the_new_ones_are_attached() -> None:
    store = left_by(OLD_CODE)
    old = store.take()[f'{OLD_CODE}-link_{WATCHER}']
    objects = asyncio.run(adoption.obtain(store, 1))
    assert not objects.watcher_links
    assert objects.replaced_watchers == loader.WATCHERS
    assert is_open(old)
    objects.keep_watcher(WATCHER, os.eventfd(0))
    objects.keep()
    assert not is_open(old)
    assert not objects.replaced_watchers
    assert f'{OLD_CODE}-link_{WATCHER}' not in store.fds
    assert f'{CODE}-link_{WATCHER}' in store.fds


def test_links_that_write_to_other_maps_are_closed_at_once() -> None:
    store = left_by(OLD_CODE, 'd' * 16)
    old = store.take()[f'{OLD_CODE}-link_{WATCHER}']
    objects = asyncio.run(adoption.obtain(store, 1))
    assert not objects.watcher_links
    assert not is_open(old)
    assert not store.fds
