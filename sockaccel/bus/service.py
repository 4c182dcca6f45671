# SPDX-License-Identifier: GPL-2.0-or-later
"""org.sockaccel1 on the system bus: the connection, the objects, and the name."""

from collections.abc import Awaitable, Callable
from typing import Self

from sockaccel.bus import logcontrol, polkit
from sockaccel.bus.logcontrol import Log, LogControl
from sockaccel.bus.manager import Core, Interceptions, Manager
from sockaccel.bus.streams import Streams
from sockaccel.core import words
from sockaccel.core.config import Config
from sockaccel.core.listing import Connections
from sockaccel.dbus.connection import Connection
from sockaccel.dbus.message import DBUS, Message
from sockaccel.dbus.serving import Server
from sockaccel.errors import AlreadyRunning


class Service:
    """Made by `open()`; the name is taken last, when all that is served is ready."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._authority = polkit.Authority(connection)
        self._server = Server(connection, self._authority.authorise)
        self._manager: Manager | None = None

    @classmethod
    async def open(cls) -> Self:
        """Connect. Raises NoSystemBus, and AlreadyRunning where another program has the name."""
        service = cls(await Connection.open())
        if await service.connection.has_owner(words.BUS_NAME):
            await service.close()
            raise _already_running()
        return service

    async def close(self) -> None:
        """Answer the calls that are being served, end what follows the events, and disconnect."""
        await self._server.close()
        if self._manager:
            self._manager.close()
        await self.connection.close()

    async def export(
        self,
        core: Core,
        interceptions: Interceptions,
        connections: Connections,
        reload: Callable[[str], Awaitable[None]],
        settings: Callable[[], Config],
        log: Log,
        on_name_lost: Callable[[], None],
        netns: int,
    ) -> Manager:
        """Serve everything. on_name_lost: called when another program has taken the name.

        netns: the cookie of the network namespace whose connections everybody may list.
        """
        self._manager = manager = Manager(
            self.connection,
            core,
            interceptions,
            connections,
            Streams(connections.sight),
            reload,
            settings,
            self._authority.may_inspect,
            netns,
        )
        self._server.export(words.OBJECT_PATH, manager)
        self._server.export(logcontrol.PATH, LogControl(log))

        def watch(message: Message) -> None:
            if message.member == 'NameOwnerChanged' and not message.body[2]:
                self._authority.forget(message.body[0])
                self._server.sender_gone(message.body[0])
                manager.sender_gone(message.body[0])
            elif message.member == 'NameLost' and message.body[0] == words.BUS_NAME:
                on_name_lost()

        await self.connection.hear(DBUS, watch)
        rule = f"type='signal',sender='{DBUS}',interface='{DBUS}',member='NameOwnerChanged',arg2=''"
        await self.connection.match(rule)
        await self._authority.watch()
        return manager

    async def take_name(self) -> None:
        """Become org.sockaccel1. Raises AlreadyRunning where another program is."""
        if not await self.connection.take_name(words.BUS_NAME):
            raise _already_running()


def _already_running() -> AlreadyRunning:
    return AlreadyRunning(
        f'another sockaccel owns the bus name "{words.BUS_NAME}": stop it first, or use it by sockaccelctl'
    )
