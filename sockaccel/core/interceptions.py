# SPDX-License-Identifier: GPL-2.0-or-later
"""Which interceptions are in force, and what has to be in the kernel for them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from sockaccel.core import messages
from sockaccel.core.interception import Interception, WhenDown
from sockaccel.core.led import Entry, InterceptionStatus, LeadKernel, Memory, Tree, Wanted
from sockaccel.core.led_keys import Led
from sockaccel.core.led_places import Places
from sockaccel.core.limits import MAX_INTERCEPTIONS, MAX_NETWORKS
from sockaccel.core.target import State, Target, quote
from sockaccel.errors import (
    InvalidArgument,
    InvalidTarget,
    KernelRefused,
    LimitExceeded,
    ManagedByFile,
    SockaccelError,
    UnknownTarget,
)

log = structlog.stdlib.get_logger()


class Interceptions:
    """One lock around every change.

    load: makes the kernel side when it is first needed; raises SockaccelError. keeps: whether links outlive the
    process. remembered: what an earlier daemon wrote. on_change: called when `rows` gives another answer.
    """

    def __init__(
        self,
        load: Callable[[], Awaitable[LeadKernel]],
        tree: Tree,
        memory: Memory,
        remembered: list[Entry],
        *,
        keeps: Callable[[], bool],
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._load = load
        self._tree = tree
        self._memory = memory
        self._keeps = keeps
        self._entries = {entry.interception.target: entry for entry in remembered}
        self._refused: dict[str, str] = {}
        # What a file wants and could not be done.
        self._failed: dict[str, tuple[Led, str]] = {}
        self._places = Places(tree)
        self._kernel: LeadKernel | None = None
        self._down: dict[int, bool] = {}
        # The network namespaces in which targets listen and nothing leads, by slot.
        self._elsewhere: dict[int, set[int]] = {}
        self._lock = asyncio.Lock()

    async def start(self, kernel: LeadKernel | None, failure: str = '') -> None:
        """Go on with what is remembered. kernel: with its programs; None if nothing needs it, or for a failure.

        failure: why the programs could not be loaded. What an earlier daemon has attached then stays as it is.
        """
        async with self._lock:
            self._tree.when_moved(self._moved)
            if kernel is None:
                self._refused = dict.fromkeys(self._entries, failure)
                for name in self._entries:
                    log.error(f'"{name}" is not led anew: {failure}', message_id=messages.NOT_LED, target=name)
                return
            self._kernel = kernel
            for entry in self._entries.values():
                for name in entry.names:
                    try:
                        await self._places.follow(name, must_exist=False)
                    except SockaccelError as exc:
                        target = entry.interception.target
                        self._refused[target] = str(exc)
                        log.error(f'"{target}" is not led: {exc}', message_id=messages.NOT_LED, target=target)
                kernel.set_slot(entry.slot, entry.interception, entry.proxy)
                self._down[entry.slot] = kernel.is_down(entry.slot)
            kernel.put(self._wanted())
            if self._entries:
                try:
                    kernel.attach(inbound=self._has_inbound())
                except (SockaccelError, OSError) as exc:
                    log.error(f'What was led stays as it is: {exc}', message_id=messages.NOT_LED)
                    return
            self._settle()

    async def intercept(
        self, target: str, proxy: str, options: Mapping[str, Any], *, by: str = ''
    ) -> InterceptionStatus:
        """Lead the connections of a target from now on. A repeated call changes the options. by: for the journal.

        Raises InvalidTarget, InvalidArgument, LimitExceeded, KernelRefused, StateNotSaved, and what `load` raises.
        """
        wanted = Interception.parse(target, proxy, options)
        async with self._lock:
            self._refuse_managed(wanted.target)
            await self._intercept(wanted)
        told = f'{_ports(wanted)}; while it is down: {wanted.when_down.value}'
        log.info(
            f'Leads "{wanted.target}" to "{wanted.proxy}"{told}{_asked_by(by)}',
            message_id=messages.LED,
            target=wanted.target,
            proxy=wanted.proxy,
            caller=by,
        )
        self.on_change()
        return self._status(self._entries[wanted.target])

    async def release(self, target: str, *, by: str = '') -> None:
        """Lead no new connection of a target. Those that were led stay with the proxy.

        Raises InvalidTarget, UnknownTarget, StateNotSaved.
        """
        name = Target.parse(target).name
        async with self._lock:
            if name not in self._entries:
                raise UnknownTarget(
                    f'the connections of {quote(name)} are not led to a proxy: nothing was changed'
                )
            self._refuse_managed(name)
            await self._release(name)
        log.info(f'Leads "{name}" no more{_asked_by(by)}', message_id=messages.RELEASED, target=name, caller=by)
        self.on_change()

    async def reload(self, wanted: Mapping[str, Led]) -> None:
        """Let the files say what is led, but for what Intercept has said. What fails is logged, and is a row."""
        async with self._lock:
            if self._kernel is None and self._refused:
                # The programs could not be loaded: all stays as it is.
                return
            for name, entry in list(self._entries.items()):
                if not entry.file or name in wanted:
                    continue
                try:
                    await self._release(name)
                except (SockaccelError, OSError) as exc:
                    log.error(f'"{name}" is still led, though no file says so: {exc}', target=name)
                else:
                    log.info(f'Leads "{name}" no more: no file says so', message_id=messages.RELEASED, target=name)
            self._failed = {}
            for name, led in wanted.items():
                before = self._entries.get(name)
                if before and (before.interception, before.file) == (led.interception, led.source):
                    continue
                try:
                    await self._intercept(led.interception, file=led.source)
                except (SockaccelError, OSError) as exc:
                    self._failed[name] = led, str(exc)
                    log.error(f'"{name}" is not led: {exc}', message_id=messages.NOT_LED, target=name)
        self.on_change()

    async def stop(self) -> None:
        """Detach everything; what is remembered is led again by the next start."""
        async with self._lock:
            if self._kernel:
                self._kernel.release()
                self._kernel = None

    def rows(self) -> list[InterceptionStatus]:
        failed = [
            InterceptionStatus(led.interception, State.REFUSED, why, file=led.source)
            for name, (led, why) in self._failed.items()
            if name not in self._entries
        ]
        return [self._status(entry) for entry in self._entries.values()] + failed

    def happened(self, slot: int, *, down: bool, port: int) -> None:
        """The proxy of a slot was not there when a connection wanted it, or is there again."""
        entry = self._entry(slot)
        if entry is None or self._down.get(slot, False) == down:
            return
        self._down[slot] = down
        wanted = entry.interception
        where = f'The proxy "{wanted.proxy}" of "{wanted.target}"'
        fields = {'target': wanted.target, 'proxy': wanted.proxy}
        if not down:
            log.info(f'{where} listens again: connections are led', message_id=messages.PROXY_BACK, **fields)
        elif wanted.when_down is WhenDown.REFUSE:
            log.error(
                f'{where} does not listen on port {port}: connections are refused',
                message_id=messages.PROXY_DOWN,
                **fields,
            )
        else:
            log.error(
                f'{where} does not listen on port {port}: connections pass it by',
                message_id=messages.PROXY_DOWN,
                **fields,
            )
        self.on_change()

    def elsewhere(self, slot: int, network: int) -> None:
        """The target of a slot listens, or wants to, in a network namespace in which nothing leads."""
        entry, known = self._entry(slot), self._elsewhere.setdefault(slot, set())
        # The target could make any number of them. What is not told of is counted.
        if entry is None or network in known or len(known) == MAX_NETWORKS:
            return
        known.add(network)
        wanted = entry.interception
        what = 'its bind() fails' if wanted.when_down is WhenDown.REFUSE else 'connections to it pass the proxy by'
        log.error(
            f'"{wanted.target}" listens in {_unopened(network)}: {what}',
            message_id=messages.NOT_LED,
            target=wanted.target,
        )

    def drained(self) -> None:
        """No led connection is on its way to its proxy."""
        self._settle()

    def _check(self, wanted: Interception) -> None:
        for entry in self._entries.values():
            other = entry.interception
            if other.target == wanted.target:
                continue
            if wanted.target == other.proxy or wanted.proxy == other.target:
                raise InvalidTarget(
                    f'"{wanted.target}" cannot be led to "{wanted.proxy}": "{other.target}" is led to '
                    f'"{other.proxy}", and a proxy is never led itself'
                )
        if wanted.when_down is WhenDown.REFUSE and not self._keeps():
            raise InvalidArgument(
                'nothing would keep the programs attached if sockaccel ended unexpectedly, and connections would '
                'pass the proxy by: let sockaccel pin them in /sys/fs/bpf, start it by systemd, or accept that by '
                '--when-down bypass'
            )

    def _refuse_managed(self, name: str) -> None:
        """Raises ManagedByFile."""
        entry = self._entries.get(name)
        file = entry.file if entry else self._failed[name][0].source if name in self._failed else ''
        if file:
            raise ManagedByFile(
                f'the proxy of {quote(name)} is in {file}, so nothing was changed: change it there and reload'
            )

    async def _intercept(self, wanted: Interception, *, file: str = '') -> None:
        """Raises what `intercept` raises."""
        self._check(wanted)
        if self._kernel is None:
            self._kernel = await self._load()
        before = self._entries.get(wanted.target)
        try:
            await self._put(wanted, self._kernel, file)
        except BaseException:
            await self._restore(wanted.target, before)
            raise
        self._refused.pop(wanted.target, None)

    async def _release(self, name: str) -> None:
        """Raises StateNotSaved."""
        entries = {other: entry for other, entry in self._entries.items() if other != name}
        # First: a target that is released now must not be led again by the next start.
        await self._remember(entries)
        await self._restore(name, None)
        self._refused.pop(name, None)

    async def _put(self, wanted: Interception, kernel: LeadKernel, file: str) -> None:
        entry = Entry(wanted, *self._numbers(wanted), file)
        for name in entry.names:
            # As with targets, a file may name what is not there yet.
            await self._places.follow(name, must_exist=not file)
        self._places.check(entry)
        kernel.set_slot(entry.slot, entry.interception, entry.proxy)
        self._entries = {**self._entries, wanted.target: entry}
        kernel.put(self._wanted())
        self._elsewhere.pop(entry.slot, None)
        kernel.attach(inbound=self._has_inbound())
        if wanted.when_down is WhenDown.REFUSE and (networks := self._elsewhere.get(entry.slot)):
            raise KernelRefused(
                f'connections to "{wanted.target}" cannot be led: it listens in {_unopened(min(networks))}. Give '
                'that a name there (Docker does, but keeps others out of /run/docker), or accept by --when-down '
                'bypass that they pass the proxy by'
            )
        await self._remember(self._entries)
        self._settle()

    async def _restore(self, target: str, before: Entry | None) -> None:
        """Let a target be led as it was before, or no more."""
        kernel, now = self._kernel, self._entries.get(target)
        self._entries = {name: entry for name, entry in self._entries.items() if name != target}
        if before:
            self._entries[target] = before
        self._places.keep(self._entries.values())
        if not kernel:
            return
        if before:
            kernel.set_slot(before.slot, before.interception, before.proxy)
        elif now:
            # First: while its proxy is nobody, connections to the target would be refused.
            kernel.set_slot(now.slot, None, None)
            self._down.pop(now.slot, None)
            self._elsewhere.pop(now.slot, None)
        kernel.put(self._wanted())
        self._settle()

    def _numbers(self, wanted: Interception) -> tuple[int, int]:
        """The slot, and the number of the proxy. Raises LimitExceeded."""
        slots, numbers = set(), set()
        slot = number = 0
        for entry in self._entries.values():
            slots.add(entry.slot)
            numbers.add(entry.number)
            if entry.interception.target == wanted.target:
                slot = entry.slot
            if entry.interception.proxy == wanted.proxy:
                number = entry.number
        free = [each for each in range(1, MAX_INTERCEPTIONS) if each not in slots]
        if not slot and not free:
            raise LimitExceeded(
                f'{MAX_INTERCEPTIONS - 1} targets are led to proxies, which is the limit: release one first'
            )
        # There are no more proxies than targets; the one that is replaced may still have its number.
        unused = [each for each in range(1, MAX_INTERCEPTIONS) if each not in numbers]
        return slot or free[0], number or (unused or [slot])[0]

    def _wanted(self) -> Wanted:
        return self._places.wanted(self._entries.values())

    def _entry(self, slot: int) -> Entry | None:
        return next((each for each in self._entries.values() if each.slot == slot), None)

    def _has_inbound(self) -> bool:
        return any(entry.interception.inbound for entry in self._entries.values())

    def _moved(self, _name: str) -> None:
        """A followed cgroup was made or removed."""
        if not self._kernel:
            return
        try:
            self._kernel.put(self._wanted())
            if self._has_inbound():
                self._kernel.attach(inbound=True)
        except (SockaccelError, OSError) as exc:
            # A proxy that is not entered gets no connection; a target has its place by name.
            log.error(f'A cgroup cannot be taken into account, and its connections may be refused: {exc}')
        self._settle()
        self.on_change()

    def _settle(self) -> None:
        if self._kernel:
            self._kernel.settle(self._wanted().proxies, leads=bool(self._entries), inbound=self._has_inbound())

    async def _remember(self, entries: Mapping[str, Entry]) -> None:
        """Raises StateNotSaved."""
        # A disk may take a while.
        await asyncio.to_thread(self._memory.write, [entry.to_json() for entry in entries.values()])

    def _status(self, entry: Entry) -> InterceptionStatus:
        wanted = entry.interception
        if why := self._refused.get(wanted.target):
            return InterceptionStatus(wanted, State.REFUSED, why, file=entry.file)
        counters = self._kernel.counters(entry.slot) if self._kernel else {}
        place, proxy = self._tree.place(wanted.target), self._tree.place(wanted.proxy)
        down = proxy.cgroup is None or self._down.get(entry.slot, False)
        if place.cgroup:
            state, detail = State.ACTIVE, f'cgroup {place.cgroup.path}'
        else:
            state, detail = State.WAITING, place.why
        return InterceptionStatus(wanted, state, detail, down, entry.file, counters)


def _ports(wanted: Interception) -> str:
    """Which connections are led, for the journal."""
    out = f' on port {wanted.outbound}' if wanted.outbound else ''
    return out + ''.join(f', connections to port {port} to its port {to}' for port, to in wanted.inbound)


def _unopened(network: int) -> str:
    return (
        f'a network namespace (inode {network}) that is not the one of sockaccel, and that no file which '
        'sockaccel may open names in /run/netns or /run/docker/netns, or that is not among the first '
        f'{MAX_NETWORKS} of these'
    )


def _asked_by(by: str) -> str:
    return f', asked by {by}' if by else ''
