# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon as a client of the bus sees it: one call, one answer, plain Python values."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

from dbus_next import BusType, Message, MessageType, Variant
from dbus_next.aio import MessageBus

from sockaccel.bus.server import be_patient
from sockaccel.errors import SockaccelError

NAME, PATH, INTERFACE = 'org.sockaccel1', '/org/sockaccel1', 'org.sockaccel1.Manager'
_DBUS = 'org.freedesktop.DBus'
_ALLOW_INTERACTIVE_AUTHORIZATION = 0x4
# No such name; systemd has no such unit, or cannot start it; and the same without systemd.
_NOT_RUNNING = (
    f'{_DBUS}.Error.ServiceUnknown',
    f'{_DBUS}.Error.NameHasNoOwner',
    f'{_DBUS}.Error.Spawn.',
    'org.freedesktop.systemd1.',
)
# polkit's dialogue is part of a call.
_TIMEOUT_S = 330.0
_MAXIMUM_PENDING_EVENTS = 10000


class NotRunning(SockaccelError):
    """There is no daemon to talk to, or no bus."""


class Refused(SockaccelError):
    """The daemon answered with an error; `name` is its D-Bus name."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class Client:
    """A connection to the daemon; an async context manager. Raises NotRunning on entry."""

    def __init__(self) -> None:
        self._bus: Any = None
        self._followers: list[asyncio.Queue[dict[str, Any] | None]] = []

    async def __aenter__(self) -> Self:
        try:
            self._bus = MessageBus(bus_type=BusType.SYSTEM)
            be_patient(self._bus)
            await self._bus.connect()
            self._bus._disconnect_future.add_done_callback(self._disconnected)
        except Exception as exc:
            raise NotRunning(f'cannot connect to the system bus ({exc})') from exc
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._bus.disconnect()

    def _disconnected(self, future: 'asyncio.Future[None]') -> None:
        # Asked for, so that asyncio does not complain that nobody did.
        future.cancelled() or future.exception()
        for queue in self._followers:
            if not queue.full():
                queue.put_nowait(None)

    async def call(self, member: str, signature: str = '', *arguments: Any) -> Any:
        """Call a method of the manager; returns its value, or a list of them. Raises Refused, NotRunning."""
        return await self.ask(NAME, PATH, INTERFACE, member, signature, arguments)

    async def properties(self) -> dict[str, Any]:
        """All properties of the manager. Raises Refused, NotRunning."""
        answer = await self.ask(NAME, PATH, f'{_DBUS}.Properties', 'GetAll', 's', (INTERFACE,))
        return dict(answer)

    async def subscribe(self) -> AsyncIterator[dict[str, Any]]:
        """Returns once the daemon sends its connection events here; they end when it leaves the bus.

        Raises Refused, NotRunning.
        """
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_MAXIMUM_PENDING_EVENTS)

        self._followers.append(queue)

        def receive(message: Any) -> bool:
            if message.message_type is MessageType.SIGNAL and not queue.full():
                if message.member == 'ConnectionEvent' and message.interface == INTERFACE:
                    queue.put_nowait(_plain(message.body[0]))
                elif message.member == 'NameOwnerChanged' and message.body[0] == NAME and not message.body[2]:
                    queue.put_nowait(None)
            return False

        self._bus.add_message_handler(receive)
        rules = (
            f"type='signal',sender='{NAME}',interface='{INTERFACE}',member='ConnectionEvent'",
            f"type='signal',sender='{_DBUS}',member='NameOwnerChanged',arg0='{NAME}'",
        )
        for rule in rules:
            await self.ask(_DBUS, '/org/freedesktop/DBus', _DBUS, 'AddMatch', 's', (rule,))
        await self.call('Subscribe')
        return _until_none(queue)

    async def ask(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = '',
        arguments: tuple[Any, ...] = (),
    ) -> Any:
        """Call a method of anybody; interface: '' for any. Raises Refused, NotRunning."""
        message: Any = Message(
            destination=destination, path=path, member=member, signature=signature, body=list(arguments)
        )
        message.interface = interface or None
        # dbus-next's MessageFlag has a name for this flag; its value is the protocol's.
        message.flags = type(message.flags)(_ALLOW_INTERACTIVE_AUTHORIZATION)
        try:
            reply = await asyncio.wait_for(self._bus.call(message), _TIMEOUT_S)
        except (TimeoutError, EOFError, OSError) as exc:
            raise NotRunning(f'the daemon gave no answer to {member} ({exc or "time is up"})') from exc
        if reply.message_type is MessageType.ERROR:
            text = reply.body[0] if reply.body else reply.error_name
            if reply.error_name.startswith(_NOT_RUNNING):
                raise NotRunning('the sockaccel daemon is not running')
            raise Refused(reply.error_name, text)
        values = [_plain(value) for value in reply.body]
        return values[0] if len(values) == 1 else values


async def _until_none(queue: 'asyncio.Queue[dict[str, Any] | None]') -> AsyncIterator[dict[str, Any]]:
    while (event := await queue.get()) is not None:
        yield event


def strings(values: list[str]) -> Any:
    """A list of strings for an option, such as EnableWithOptions takes."""
    return Variant('as', values)


def string(value: str) -> Any:
    """A string for an option."""
    return Variant('s', value)


def integer(value: int) -> Any:
    """A number for an option."""
    return Variant('t', value)


def boolean(value: bool) -> Any:  # noqa: FBT001
    """Yes or no for an option."""
    return Variant('b', value)


def _plain(value: Any) -> Any:
    if isinstance(value, Variant):
        return _plain(value.value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
