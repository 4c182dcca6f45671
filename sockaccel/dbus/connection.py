# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection to the system bus: calls to others, signals of others, names and who has them."""

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Self

from sockaccel.core.text import printable
from sockaccel.dbus import writer
from sockaccel.dbus.inbox import Frame
from sockaccel.dbus.line import Line, OnFrame
from sockaccel.dbus.message import DBUS, DBUS_PATH, Message, MessageFlag, MessageType
from sockaccel.errors import AskFailed, NoSystemBus, NotPermitted

CALL_TIMEOUT_S = 25.0
_SYSTEMD = 'org.freedesktop.systemd1'
# A change waits for the name of who asked for it; better without than long.
_DESCRIBE_TIMEOUT_S = 2.0
# Nothing more is served or signalled while so many messages wait, see `Connection.congested`.
_MAXIMUM_UNSENT = 1024
# DBUS_NAME_FLAG_DO_NOT_QUEUE, DBUS_REQUEST_NAME_REPLY_PRIMARY_OWNER of the D-Bus specification.
_DO_NOT_QUEUE, _PRIMARY_OWNER = 0x4, 1

_CALLER_LEFT = 'the caller has left the bus'

OnSignal = Callable[[Message], None]


class Connection:
    """A connection to the system bus, made by `open()`; `close()` ends it."""

    def __init__(self, *, takes_fds: bool = False) -> None:
        self._line = Line(self._receive, takes_fds=takes_fds)
        self._on_call: OnFrame = self._no_method
        # Of each program whose signals are received, by its bus name: its unique name, and who receives them.
        self._owners: dict[str, str] = {DBUS: DBUS}
        self._on_signal: dict[str, list[OnSignal]] = {DBUS: []}
        self._users: dict[str, int] = {}
        # Callers whose uid was asked for, and that have not left since.
        self._asked_users: set[str] = set()

    @classmethod
    async def open(cls, *, takes_fds: bool = False) -> Self:
        """Connect to the system bus. Raises NoSystemBus.

        takes_fds: whether answers may bring descriptors; all that others send are closed unseen otherwise.
        """
        try:
            connection = cls(takes_fds=takes_fds)
            try:
                await connection._line.connect()
            except BaseException:
                connection._line.close()
                raise
        except Exception as exc:  # dbus-next raises bare Exceptions too.
            raise NoSystemBus(
                f'cannot connect to the system bus ({exc}): is dbus-daemon or dbus-broker running, and '
                'DBUS_SYSTEM_BUS_ADDRESS right?'
            ) from exc
        return connection

    async def close(self) -> None:
        """Disconnect, and close the socket."""
        self._line.disconnect()
        with contextlib.suppress(Exception):
            await self._line.wait_for_disconnect()
        self._line.close()

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Call back once when the connection ends, in whatever way; nothing else tells of it."""
        self._line.when_lost(callback)

    @property
    def congested(self) -> bool:
        """Whether more than 1024 messages wait, because the bus takes them slower than they are made."""
        return self._line.unsent > _MAXIMUM_UNSENT

    @property
    def behind(self) -> bool:
        """Whether more messages have come than were looked at."""
        return self._line.behind

    def on_call(self, receive: OnFrame) -> None:
        """Have calls to us received."""
        self._on_call = receive

    async def hear(self, name: str, receive: OnSignal) -> None:
        """Have the signals received that a `match()` lets through, and that the owner of a bus name has sent.

        Anybody can send a signal that looks like one of systemd's. Raises AskFailed.
        """
        if name not in self._owners:
            self._owners[name] = ''
            await self.match(f"type='signal',sender='{DBUS}',member='NameOwnerChanged',arg0='{name}'")
            with contextlib.suppress(AskFailed):
                owner = str(await self._ask_bus('GetNameOwner', 's', name))
                # A change that was signalled after the answer may have been looked at before it.
                self._owners[name] = self._owners[name] or owner
        self._on_signal.setdefault(name, []).append(receive)

    def _receive(self, frame: Frame) -> None:
        # What others send unasked is of no use here.
        frame.close_fds()
        if frame.kind == MessageType.METHOD_CALL.value:
            self._on_call(frame)
        elif frame.kind == MessageType.SIGNAL.value and not self._tells_of_stranger(frame):
            names = [name for name, owner in self._owners.items() if owner == frame.sender != '']
            if names:
                self._signal(frame, names)

    def _tells_of_stranger(self, frame: Frame) -> bool:
        """Whether the bus tells that somebody has come or left of whom nothing is known here.

        Clients that come back again and again make as many of these signals, and to read one whole takes long.
        """
        if (frame.sender, frame.member) != (DBUS, 'NameOwnerChanged'):
            return False
        name = frame.first_text()
        return name not in self._owners and name not in self._users and name not in self._asked_users

    def _signal(self, frame: Frame, names: list[str]) -> None:
        message, unreadable = frame.read()
        if unreadable or message.message_type is not MessageType.SIGNAL:
            return
        if message.sender == DBUS and message.member == 'NameOwnerChanged':
            name, _before, owner = message.body
            if name in self._owners:
                self._owners[name] = owner
            if not owner:
                self._users.pop(name, None)
                self._asked_users.discard(name)
        for name in names:
            for receive in self._on_signal.get(name, []):
                receive(message)

    def _no_method(self, frame: Frame) -> None:
        self.refuse(frame, f'{DBUS}.Error.UnknownMethod', 'nothing can be called here')

    def send(self, message: Message, sent: Callable[[], None] = lambda: None) -> None:
        """Send a message some time soon; on a lost connection it is thrown away. Then `sent` is called."""
        self._line.send(message).add_done_callback(lambda _future: sent())

    def refuse(self, frame: Frame, name: str, text: str) -> None:
        """Answer a call with an error, if it wants an answer, and if the bus takes what is sent."""
        if frame.wants_reply and not self.congested:
            serial = self._line.next_serial()
            self._line.send_raw(writer.error(serial, frame.sender, frame.serial, name, text))

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
        A value of type h is a file descriptor, which the caller closes.
        """
        flags = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else MessageFlag.NONE
        message = self._call(destination, path, interface, member, signature, body, flags)
        return await self._answer(message.serial, self._line.call(message), timeout, destination)

    async def _answer(
        self, serial: int, answer: Awaitable[Message], timeout: float, destination: str
    ) -> list[Any]:
        """The body of the answer to a call with this serial. Raises AskFailed."""
        try:
            reply = await asyncio.wait_for(answer, timeout)
        except TimeoutError as exc:
            raise AskFailed(f'{destination} gave no answer within {timeout:.0f} s') from exc
        except (EOFError, OSError) as exc:
            raise AskFailed('the connection to the bus is lost') from exc
        finally:
            self._line.forget_call(serial)
        if reply.message_type is MessageType.ERROR:
            _close(reply.unix_fds)
            name = reply.error_name or ''
            raise AskFailed(str(reply.body[0]) if reply.body else name, name)
        return _with_fds(reply)

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
            signature=signature, body=list(body), serial=self._line.next_serial(), flags=flags,
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

    def known_user(self, sender: str) -> int | None:
        """The uid of a caller, if `user_of()` was asked before."""
        return self._users.get(sender)

    async def user_of(self, sender: str) -> int:
        """The uid of a caller. Raises NotPermitted when it has left the bus.

        The answer is kept until NameOwnerChanged tells that the caller has left, for which somebody must have made
        a `match()`; its name is never given to another.
        """
        user = self._users.get(sender)
        if user is None:
            self._asked_users.add(sender)
            try:
                user = int(await self._ask_of(sender, 'GetConnectionUnixUser'))
                if sender in self._asked_users:
                    self._users[sender] = user
                elif sender not in self._users:
                    raise NotPermitted(_CALLER_LEFT)
            finally:
                self._asked_users.discard(sender)
        return user

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
        serial = self._line.next_serial()
        call = writer.call(serial, DBUS, DBUS_PATH, DBUS, member, sender)
        try:
            return (await self._answer(serial, self._line.call_raw(serial, call), CALL_TIMEOUT_S, DBUS))[0]
        except AskFailed as exc:
            raise NotPermitted(_CALLER_LEFT) from exc


def unescaped(label: str) -> str:
    """The text that systemd has made part of an object path: "_2e" is a dot (sd_bus_path_encode(3))."""
    return re.sub('_([0-9a-f]{2})', lambda found: chr(int(found[1], 16)), label)


def _program_of(pid: int) -> str:
    # A unit with ProtectProc=invisible sees no process of other users.
    try:
        return printable(Path(f'/proc/{pid}/comm').read_text(errors='replace').rstrip('\n'))
    except OSError:
        return 'process'


def _with_fds(reply: Message) -> list[Any]:
    """The body, with descriptors in the place of their numbers in the message. Raises AskFailed."""
    fds, body = list(reply.unix_fds), list(reply.body)
    if not fds:
        return body
    if reply.signature != 'h' * len(fds) or sorted(body) != list(range(len(fds))):
        _close(fds)
        raise AskFailed('the answer brings file descriptors that nobody asked for')
    return [fds[index] for index in body]


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
