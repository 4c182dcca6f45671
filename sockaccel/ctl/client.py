# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon as a client of the bus sees it: one call, one answer, plain Python values."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

from sockaccel.core.words import BUS_NAME, MANAGER, OBJECT_PATH
from sockaccel.dbus.connection import Connection
from sockaccel.dbus.message import DBUS, PROPERTIES, Variant, plain
from sockaccel.errors import AskFailed, NoSystemBus, SockaccelError

# No such name; systemd has no such unit, or cannot start it; and the same without systemd.
_NOT_RUNNING = (
    f'{DBUS}.Error.ServiceUnknown',
    f'{DBUS}.Error.NameHasNoOwner',
    f'{DBUS}.Error.Spawn.',
    'org.freedesktop.systemd1.',
)
# A call may last as long as polkit's dialogue.
_TIMEOUT_S = 330.0
_BUFFERED = 4 * 1024 * 1024

_START = 'start it with: systemctl enable --now sockaccel'
_LOOK = 'see what it does: systemctl status sockaccel'


class NotRunning(SockaccelError):
    """There is no daemon to talk to, or no bus. hint: what to do about it, '' for what the text says already."""

    def __init__(self, message: str, hint: str = '') -> None:
        super().__init__(message)
        self.hint = hint


class Refused(SockaccelError):
    """The daemon answered with an error; `name` is its D-Bus name."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class Client:
    """A connection to the daemon; an async context manager. Raises NotRunning on entry."""

    async def __aenter__(self) -> Self:
        try:
            self.connection = await Connection.open(takes_fds=True)
        except NoSystemBus as exc:
            raise NotRunning(str(exc)) from exc
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await self.connection.close()

    async def is_running(self) -> bool:
        """Whether there is a daemon; nobody starts one because of the question. Raises NotRunning."""
        try:
            return await self.connection.has_owner(BUS_NAME)
        except AskFailed as exc:
            raise NotRunning(f'the bus does not answer ({exc})') from exc

    async def call(self, member: str, signature: str = '', *arguments: Any) -> Any:
        """Call a method of the manager; returns its value, or a list of them. Raises Refused, NotRunning."""
        return await self.ask(BUS_NAME, OBJECT_PATH, MANAGER, member, signature, arguments)

    async def wait_for(self, seconds: float, member: str, signature: str = '', *arguments: Any) -> Any:
        """`call` of a method that takes so long to answer, beyond what others may take."""
        return await self.ask(
            BUS_NAME, OBJECT_PATH, MANAGER, member, signature, arguments, timeout=_TIMEOUT_S + seconds
        )

    async def properties(self) -> dict[str, Any]:
        """All properties of the manager. Raises Refused, NotRunning."""
        answer = await self.ask(BUS_NAME, OBJECT_PATH, PROPERTIES, 'GetAll', 's', (MANAGER,))
        return dict(answer)

    async def subscribe(self, wanted: dict[str, Variant]) -> AsyncIterator[dict[str, Any]]:
        """Returns once the daemon sends its connection events here; they end when it ends.

        One that is {"lost": N} stands for N that were not read fast enough. wanted: see "filter" of Subscribe.
        Raises Refused, NotRunning.
        """
        fd = await self.call('Subscribe', 'a{sv}', wanted)
        # In its buffer are events that the daemon need not keep.
        reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd), limit=_BUFFERED)
        return _events(reader, writer)

    async def ask(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = '',
        arguments: tuple[Any, ...] = (),
        timeout: float = _TIMEOUT_S,
    ) -> Any:
        """Call a method of any program; interface: '' for any, timeout: in seconds. Raises Refused, NotRunning."""
        try:
            body = await self.connection.ask(
                destination, path, interface, member, signature, arguments, timeout=timeout, interactive=True
            )
        except AskFailed as exc:
            if not exc.name:
                raise NotRunning(f'the daemon gave no answer to {member} ({exc})', _LOOK) from exc
            if exc.name.startswith(_NOT_RUNNING):
                raise NotRunning('the sockaccel daemon is not running', _START) from exc
            raise Refused(exc.name, str(exc)) from exc
        values = [plain(value) for value in body]
        return values[0] if len(values) == 1 else values


async def _events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncIterator[dict[str, Any]]:
    try:
        while line := await reader.readline():
            yield json.loads(line)
    finally:
        writer.close()


def strings(values: list[str]) -> Variant:
    """A list of strings for an option, such as EnableWithOptions takes."""
    return Variant('as', values)


def string(value: str) -> Variant:
    """A string for an option."""
    return Variant('s', value)


def integer(value: int) -> Variant:
    """A number for an option."""
    return Variant('t', value)


def count(value: int) -> Variant:
    """A number for an option that takes 32 bits."""
    return Variant('u', value)


def boolean(value: bool) -> Variant:  # noqa: FBT001
    """Yes or no for an option."""
    return Variant('b', value)


def short(value: int) -> Variant:
    """A port for an option."""
    return Variant('q', value)
