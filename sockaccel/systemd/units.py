# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks systemd where units are, and hears when that changes (org.freedesktop.systemd1(5))."""

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from sockaccel.core.target import quote
from sockaccel.dbus.connection import Connection
from sockaccel.dbus.message import PROPERTIES, Message
from sockaccel.errors import AskFailed, InvalidTarget

log = structlog.stdlib.get_logger()

_NAME = 'org.freedesktop.systemd1'
_PATH = '/org/freedesktop/systemd1'
_MANAGER = f'{_NAME}.Manager'
# How long to wait for systemd's answer while the daemon ends, for which systemd waits in turn.
_PATIENCE_S = 5.0
_INTERFACES = {
    '.service': 'Service', '.slice': 'Slice', '.scope': 'Scope', '.socket': 'Socket', '.mount': 'Mount',
    '.swap': 'Swap',
}  # fmt: skip


@dataclass
class _Followed:
    """path: of the unit's object. rules: those that the bus has for its signals."""

    path: str
    moved: Callable[[], None]
    rules: tuple[str, ...]


class SystemdUnits:
    """sockaccel.systemd.cgroups.Units by way of the system bus.

    The signal UnitNew is of no use: systemd sends it whenever it loads a unit, and to ask about a unit loads it.
    """

    def __init__(self, bus: Connection) -> None:
        self._bus = bus
        self._followed: dict[str, _Followed] = {}
        self._subscribed = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def follow(self, unit: str, moved: Callable[[], None]) -> str | None:
        """See sockaccel.systemd.cgroups.Units; None without systemd."""
        if not await self._bus.has_owner(_NAME):
            return None
        try:
            await self._subscribe()
            (path,) = await self._bus.ask(_NAME, _PATH, _MANAGER, 'LoadUnit', 's', [unit])
            changes = f"type='signal',sender='{_NAME}',interface='{PROPERTIES}',path='{path}'"
            # systemd makes a job before it starts a unit, also one that did not exist when it was enabled.
            jobs = [
                f"type='signal',sender='{_NAME}',interface='{_MANAGER}',member='Job{what}',arg2='{unit}'"
                for what in ('New', 'Removed')
            ]
            self._followed[unit] = followed = _Followed(path, moved, (changes, *jobs))
            for rule in followed.rules:
                await self._bus.match(rule)
        except AskFailed as exc:
            self.forget(unit)
            raise InvalidTarget(f'systemd does not know unit {quote(unit)} ({exc})') from exc
        return await self.place(unit)

    async def place(self, unit: str) -> str:
        """See sockaccel.systemd.cgroups.Units."""
        followed = self._followed[unit]
        try:
            state = await self._property(followed.path, 'Unit', 'LoadState')
            if state == 'not-found':
                return ''
            if state in ('bad-setting', 'error', 'masked'):
                raise InvalidTarget(f'unit {quote(unit)} cannot be used: systemd says "{state}"')
            interface = _INTERFACES[unit[unit.rindex('.') :]]
            place = await self._property(followed.path, interface, 'ControlGroup')
            if place:
                return str(place)
            if interface == 'Slice':
                return _slice_path(unit) or '/'
            return f'{_slice_path(await self._property(followed.path, interface, "Slice"))}/{unit}'
        except AskFailed as exc:
            raise InvalidTarget(f'systemd says nothing about unit {quote(unit)} ({exc})') from exc

    async def listeners(self, unit: str) -> frozenset[tuple[str, int]]:
        """See sockaccel.systemd.cgroups.Units: what the socket units listen on that start the unit."""
        found: set[tuple[str, int]] = set()
        try:
            for trigger in await self._property(self._followed[unit].path, 'Unit', 'TriggeredBy'):
                if not trigger.endswith('.socket'):
                    continue
                (path,) = await self._bus.ask(_NAME, _PATH, _MANAGER, 'LoadUnit', 's', [trigger])
                for kind, address in await self._property(path, 'Socket', 'Listen'):
                    host, _separator, port = address.rpartition(':')
                    # Streams are AF_UNIX and AF_VSOCK sockets too.
                    with contextlib.suppress(ValueError):
                        if kind == 'Stream':
                            found.add((str(ipaddress.ip_address(host.strip('[]'))), int(port)))
        except AskFailed as exc:
            raise InvalidTarget(f'systemd says nothing about the sockets of unit {quote(unit)} ({exc})') from exc
        return frozenset(found)

    def forget(self, unit: str) -> None:
        followed = self._followed.pop(unit, None)
        for rule in followed.rules if followed else ():
            self._start(self._unmatch(rule))

    async def own_job(self) -> str:
        """What systemd is doing to our own unit: `restart`, `stop` and so on, '' if that cannot be told."""
        try:
            if not await self._bus.has_owner(_NAME):
                return ''
            (path,) = await self._bus.ask(
                _NAME, _PATH, _MANAGER, 'GetUnitByPID', 'u', [os.getpid()], timeout=_PATIENCE_S
            )
            number, job = await self._property(path, 'Unit', 'Job')
            return str(await self._property(job, 'Job', 'JobType')) if number else ''
        except AskFailed:
            return ''

    async def _subscribe(self) -> None:
        """Systemd sends signals once a client asks for them."""
        if self._subscribed:
            return
        await self._bus.hear(_NAME, self._receive)
        await self._bus.match(
            f"type='signal',sender='{_NAME}',path='{_PATH}',interface='{_MANAGER}',member='Reloading'"
        )
        try:
            await self._bus.ask(_NAME, _PATH, _MANAGER, 'Subscribe')
        except AskFailed as exc:
            # Another object of this class has asked by the same connection.
            if exc.name != f'{_NAME}.AlreadySubscribed':
                raise
        self._subscribed = True

    def _receive(self, message: Message) -> None:
        """All that follows from a signal is that systemd is asked again."""
        if message.member == 'PropertiesChanged':
            concerned = [followed for followed in self._followed.values() if followed.path == message.path]
        elif message.member in ('JobNew', 'JobRemoved') and len(message.body) > 2:
            concerned = [followed for unit, followed in self._followed.items() if unit == message.body[2]]
        elif message.member == 'Reloading' and message.body == [False]:
            concerned = list(self._followed.values())
        else:
            return
        for followed in concerned:
            followed.moved()

    async def _unmatch(self, rule: str) -> None:
        try:
            await self._bus.unmatch(rule)
        except AskFailed as exc:
            log.debug(f'The bus keeps a rule of a unit that is not followed any more ({exc}), ignoring')

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _property(self, path: str, interface: str, name: str) -> Any:
        body = await self._bus.ask(_NAME, path, PROPERTIES, 'Get', 'ss', [f'{_NAME}.{interface}', name])
        return body[0].value


def _slice_path(unit: str) -> str:
    """Where a slice's cgroup is by its name (systemd.slice(5)); '' for the root slice."""
    if unit in ('', '-.slice'):
        return ''
    parts = unit.removesuffix('.slice').split('-')
    return ''.join(f'/{"-".join(parts[:depth])}.slice' for depth in range(1, len(parts) + 1))
