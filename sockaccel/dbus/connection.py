# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection to the system bus: calls to others, signals of others, names and who has them."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from sockaccel.core.text import printable
from sockaccel.dbus.library import BusType, MessageBus, Unmarshaller
from sockaccel.dbus.message import DBUS, DBUS_PATH, Message, MessageFlag, MessageType
from sockaccel.dbus.reader import Reader
from sockaccel.dbus.writer import PatientSocket
from sockaccel.errors import AskFailed, NoSystemBus, NotPermitted

CALL_TIMEOUT_S = 25.0
_SYSTEMD = 'org.freedesktop.systemd1'
# A change waits for the name of who asked for it; better without than long.
_DESCRIBE_TIMEOUT_S = 2.0
# Signals beyond are left out rather than kept in memory, see `Connection.congested`.
_MAXIMUM_UNSENT = 16384
# DBUS_NAME_FLAG_DO_NOT_QUEUE, DBUS_REQUEST_NAME_REPLY_PRIMARY_OWNER of the D-Bus specification.
_DO_NOT_QUEUE, _PRIMARY_OWNER = 0x4, 1

OnCall = Callable[[Message, str], None]
OnSignal = Callable[[Message], None]


class _Library(MessageBus):
    """dbus-next's connection. Calls and signals go to `received`, see `Connection.on_call()`."""

    def __init__(self, received: OnCall) -> None:
        super().__init__(bus_type=BusType.SYSTEM)
        self._writer.sock = PatientSocket(self._sock)
        self._received = received

    def _create_unmarshaller(self) -> Unmarshaller:
        return Reader(self._stream)

    def _process_message(self, msg: Message) -> None:
        if msg.message_type in (MessageType.METHOD_RETURN, MessageType.ERROR):
            super()._process_message(msg)
        else:
            assert isinstance(self._unmarshaller, Reader)
            self._received(msg, self._unmarshaller.unreadable)

    @property
    def lost(self) -> bool:
        return self._disconnected

    @property
    def unsent(self) -> int:
        return self._writer.messages.qsize()

    def forget_call(self, serial: int) -> None:
        """An abandoned call would leave its handler behind for ever."""
        self._method_return_handlers.pop(serial, None)

    def when_lost(self, callback: Callable[[], None]) -> None:
        def ended(future: asyncio.Future[None]) -> None:
            if not future.cancelled():
                future.exception()
            callback()

        self._disconnect_future.add_done_callback(ended)

    def send(self, msg: Message) -> asyncio.Future[None]:
        if self._disconnected:
            sent: asyncio.Future[None] = self._loop.create_future()
            sent.set_result(None)
            return sent
        sent = super().send(msg)
        # Looks at the exception, so that asyncio does not complain that nobody did.
        sent.add_done_callback(lambda future: future.cancelled() or future.exception())
        return sent

    def close(self) -> None:
        """dbus-next leaves both open."""
        self._stream.close()
        self._sock.close()


class Connection:
    """A connection to the system bus, made by `open()`; `close()` ends it."""

    def __init__(self) -> None:
        self._library = _Library(self._receive)
        self._on_call: OnCall = self._refuse
        self._on_signal: list[OnSignal] = []

    @classmethod
    async def open(cls) -> Self:
        """Connect to the system bus. Raises NoSystemBus."""
        try:
            connection = cls()
            try:
                await connection._library.connect()
            except BaseException:
                connection._library.close()
                raise
        except Exception as exc:  # dbus-next raises bare Exceptions too.
            raise NoSystemBus(
                f'cannot connect to the system bus ({exc}): is dbus-daemon or dbus-broker running, and '
                'DBUS_SYSTEM_BUS_ADDRESS right?'
            ) from exc
        return connection

    async def close(self) -> None:
        """Disconnect, and close the socket."""
        self._library.disconnect()
        with contextlib.suppress(Exception):
            await self._library.wait_for_disconnect()
        self._library.close()

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Call back once when the connection ends, in whatever way; nothing else tells of it."""
        self._library.when_lost(callback)

    @property
    def congested(self) -> bool:
        """Whether more than 16384 messages wait, because the bus takes them slower than they are made."""
        return self._library.unsent > _MAXIMUM_UNSENT

    def on_call(self, receive: OnCall) -> None:
        """Have calls to us received: the message, and why its body is missing, '' if it is not."""
        self._on_call = receive

    def on_signal(self, receive: OnSignal) -> None:
        """Have every signal received that a `match()` lets through, whoever sent it."""
        self._on_signal.append(receive)

    def _receive(self, message: Message, unreadable: str) -> None:
        # dbus-next reads as long as there is something to read, so that many of these may come in one turn.
        if message.message_type is MessageType.METHOD_CALL:
            self._on_call(message, unreadable)
        else:
            for receive in self._on_signal:
                receive(message)

    def _refuse(self, message: Message, _unreadable: str) -> None:
        if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            self.send(Message.new_error(message, f'{DBUS}.Error.UnknownMethod', 'nothing can be called here'))

    def send(self, message: Message) -> None:
        """Send a message some time soon; on a lost connection it is thrown away."""
        self._library.send(message)

    async def ask(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = '',
        body: Iterable[Any] = (),
        *,
        timeout: float = CALL_TIMEOUT_S,
        interactive: bool = False,
    ) -> list[Any]:
        """Call a method of another program; returns the body of its answer. Raises AskFailed.

        interface: '' for any. timeout: seconds. interactive: polkit may ask the user for a password meanwhile.
        """
        if self._library.lost:
            raise AskFailed('the connection to the bus is lost')
        flags = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else MessageFlag.NONE
        message = self._call(destination, path, interface, member, signature, body, flags)
        try:
            reply = await asyncio.wait_for(self._library.call(message), timeout)
        except TimeoutError as exc:
            raise AskFailed(f'{destination} gave no answer within {timeout:.0f} s') from exc
        except (EOFError, OSError) as exc:
            raise AskFailed('the connection to the bus is lost') from exc
        finally:
            self._library.forget_call(message.serial)
        if reply.message_type is MessageType.ERROR:
            name = reply.error_name or ''
            raise AskFailed(str(reply.body[0]) if reply.body else name, name)
        return reply.body

    def tell(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = '',
        body: Iterable[Any] = (),
    ) -> None:
        """Call a method of another program that shall not answer."""
        flags = MessageFlag.NO_REPLY_EXPECTED
        self.send(self._call(destination, path, interface, member, signature, body, flags))

    def _call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str,
        body: Iterable[Any],
        flags: MessageFlag,
    ) -> Message:
        return Message(
            destination=destination, path=path, interface=interface or None, member=member,
            signature=signature, body=list(body), serial=self._library.next_serial(), flags=flags,
        )  # fmt: skip

    async def _ask_bus(self, member: str, signature: str = '', *body: Any) -> Any:
        """Call a method of the bus itself; returns the first value of its answer, None if it has none."""
        answer = await self.ask(DBUS, DBUS_PATH, DBUS, member, signature, body)
        return answer[0] if answer else None

    async def match(self, rule: str) -> None:
        """Have the bus send us the signals that fit a rule (D-Bus specification, "Match Rules"). AskFailed."""
        await self._ask_bus('AddMatch', 's', rule)

    async def unmatch(self, rule: str) -> None:
        """Take `match()` back. Raises AskFailed."""
        await self._ask_bus('RemoveMatch', 's', rule)

    async def take_name(self, name: str) -> bool:
        """Whether we own a name now; another program may have it. Raises AskFailed."""
        return bool(await self._ask_bus('RequestName', 'su', name, _DO_NOT_QUEUE) == _PRIMARY_OWNER)

    async def has_owner(self, name: str) -> bool:
        """Raises AskFailed."""
        return bool(await self._ask_bus('NameHasOwner', 's', name))

    async def available(self, name: str) -> bool:
        """Whether the name has an owner, or would get one with the first message. Raises AskFailed."""
        return name in await self._ask_bus('ListActivatableNames') or await self.has_owner(name)

    async def user_of(self, sender: str) -> int:
        """The uid of a caller. Raises NotPermitted when it has left the bus."""
        return int(await self._ask_of(sender, 'GetConnectionUnixUser'))

    async def describe(self, sender: str) -> str:
        """User, unit and process of a caller, for the journal. Raises NotPermitted when it has left the bus.

        Where there is no systemd its program stands in the place of its unit.
        """
        user, pid = await self.user_of(sender), await self._ask_of(sender, 'GetConnectionUnixProcessID')
        return f'uid {user}, {await self._unit_of(pid) or _program_of(pid)}[{pid}]'

    async def _unit_of(self, pid: int) -> str:
        """The systemd unit of a process, '' where nobody says it."""
        try:
            if not await self.has_owner(_SYSTEMD):
                return ''
            (path,) = await self.ask(
                _SYSTEMD, '/org/freedesktop/systemd1', f'{_SYSTEMD}.Manager', 'GetUnitByPID', 'u', [pid],
                timeout=_DESCRIBE_TIMEOUT_S,
            )  # fmt: skip
        except AskFailed:
            return ''
        return printable(unescaped(str(path).rpartition('/')[2]))

    async def _ask_of(self, sender: str, member: str) -> Any:
        # Not GetConnectionCredentials: dbus-broker ends a connection that cannot take the fd in its answer.
        try:
            return await self._ask_bus(member, 's', sender)
        except AskFailed as exc:
            raise NotPermitted('the caller has left the bus') from exc


def unescaped(label: str) -> str:
    """The text that systemd has made part of an object path: "_2e" is a dot (sd_bus_path_encode(3))."""
    return re.sub('_([0-9a-f]{2})', lambda found: chr(int(found[1], 16)), label)


def _program_of(pid: int) -> str:
    # A unit with ProtectProc=invisible sees no process of other users.
    try:
        return printable(Path(f'/proc/{pid}/comm').read_text(errors='replace').rstrip('\n'))
    except OSError:
        return 'process'
