# SPDX-License-Identifier: GPL-2.0-or-later
"""The cgroups of targets that are led, and of their proxies: what the kernel must know of them."""

from collections.abc import Iterable, Mapping

from sockaccel.core.led import Entry, Owner, Spot, Tree, Wanted
from sockaccel.core.limits import MAX_PLACE_NAME
from sockaccel.core.target import Target, quote
from sockaccel.errors import InvalidTarget, LimitExceeded


class Places:
    """tree: of the cgroups; each name that an entry has is followed there."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._followed: set[str] = set()

    async def follow(self, name: str, *, must_exist: bool) -> None:
        """Raises what Tree.follow() raises. A name that is followed already is no error."""
        if name in self._followed:
            return
        await self._tree.follow(Target.parse(name), must_exist=must_exist)
        self._followed.add(name)

    def keep(self, entries: Iterable[Entry]) -> None:
        """Follow no longer what none of these names."""
        named = {name for entry in entries for name in entry.names}
        for name in self._followed - named:
            self._tree.forget(name)
        self._followed &= named

    def check(self, entry: Entry) -> None:
        """Whether a target and its proxy can be told from all others. Raises InvalidTarget, LimitExceeded."""
        wanted = entry.interception
        target, proxy = (self._tree.path(name) for name in entry.names)
        if target != proxy and target and proxy and target.startswith(f'{proxy}/'):
            raise InvalidTarget(
                f'"{wanted.target}" is inside of its proxy "{wanted.proxy}", and a proxy is never led itself'
            )
        for name in self._followed - {*entry.names}:
            if self._tree.path(name) in (target, proxy) and self._tree.path(name):
                raise InvalidTarget(f'{quote(name)} has the same cgroup, and is led or leads already')
        for path in (target, proxy):
            if len(path.rpartition('/')[2].encode()) >= MAX_PLACE_NAME:
                raise LimitExceeded(f'the cgroup "{path}" has a name longer than {MAX_PLACE_NAME - 1} bytes')

    def wanted(self, entries: Iterable[Entry]) -> Wanted:
        """What is to be in the kernel for these, and nothing else."""
        found = Wanted({}, {}, {})
        for entry in entries:
            for name, owner in zip(entry.names, (entry.target, entry.proxy), strict=True):
                self._add_cgroup(found, name, owner, is_proxy=name == entry.interception.proxy)
            self._add_ways_in(found, entry)
        return found

    def _add_cgroup(self, found: Wanted, name: str, owner: Owner, *, is_proxy: bool) -> None:
        path = self._tree.path(name) if name in self._followed else ''
        if not path:
            return
        above, _slash, last = path.rpartition('/')
        if parent := self._tree.find(above or '/'):
            spot: Spot = (parent.id, last)
            found.spots[spot] = owner
        if cgroup := self._tree.place(name).cgroup:
            found.owners[cgroup.id] = owner
            if is_proxy:
                found.proxies[cgroup.id] = cgroup.path

    def _add_ways_in(self, found: Wanted, entry: Entry) -> None:
        inbound: Mapping[int, int] = dict(entry.interception.inbound)
        found.doors.update((entry.proxy, to) for to in inbound.values())
        name = entry.interception.target
        if not inbound or name not in self._followed:
            return
        for address, port in self._tree.place(name).listeners:
            if port in inbound:
                found.served[address, port] = entry.slot
