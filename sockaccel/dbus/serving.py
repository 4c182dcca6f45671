# SPDX-License-Identifier: GPL-2.0-or-later
"""Serves objects to others: each call is a task, which ends in exactly one answer.

Calls wait for their turn in sockaccel.dbus.turns, so that nobody's calls keep the event loop from its work, or
other callers from their answers.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from sockaccel.core import words
from sockaccel.dbus import introspection
from sockaccel.dbus.connection import Connection
from sockaccel.dbus.inbox import Frame
from sockaccel.dbus.interface import Interface, Method, signature
from sockaccel.dbus.message import (
    FAILED,
    INTROSPECTABLE,
    PEER,
    PROPERTIES,
    Message,
    MessageFlag,
    MessageType,
    StandardError,
)
from sockaccel.dbus.turns import Stranger, Turns
from sockaccel.errors import InvalidArgument, LimitExceeded, NotPermitted, SockaccelError

log = structlog.stdlib.get_logger()

# In one turn of the event loop; the longest takes some milliseconds.
_CALLS_IN_A_TURN = 4
# How long only messages are looked at after each call, while they come faster than that: what is in front of a
# call in the bus's queue is in front of it for everybody.
_LOOK_FIRST_S = 0.02
# When to look again whether the bus takes answers.
_LOOK_AGAIN_S = 0.05
_SHUTTING_DOWN = 'sockaccel is shutting down'

_caller: ContextVar[str] = ContextVar('caller', default='')


@dataclass
class Answer:
    """handed_over: sockets whose descriptors go with it, and which are closed then."""

    signature: str = ''
    body: list[Any] = field(default_factory=list)
    handed_over: list[socket.socket] = field(default_factory=list)


def caller() -> str:
    """The unique bus name of the client whose call is being served, '' outside of one."""
    return _caller.get()


@dataclass(frozen=True)
class Request:
    """A client wants to change something. action: what polkit is asked.

    sender: a unique bus name. interactive: the client allows a dialogue. subject: what is to be changed.
    """

    sender: str
    member: str
    action: str
    interactive: bool
    subject: str


# Returns if the client may. Raises NotPermitted, LimitExceeded.
Authorise = Callable[[Connection, Request], Awaitable[None]]


class Server:
    """Interfaces by the paths of their objects.

    `authorise` is awaited before each change. The core's errors become org.sockaccel1.Error.*, because of the
    standard errors busctl shows an errno's text instead of the message. Any other exception is logged once and
    hidden from the client.
    """

    def __init__(self, connection: Connection, authorise: Authorise) -> None:
        self._connection = connection
        self._authorise = authorise
        self._interfaces: dict[str, list[Interface]] = {}
        # Introspection by path.
        self._documents: dict[str, str] = {}
        # Members that change something; the others have no effect but their answer.
        self._changes = {'Set'}
        self._turns = Turns()
        self._next_turn: asyncio.Handle | None = None
        # Calls of clients whose uid is not known yet.
        self._strangers: dict[str, Stranger] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Those that wait for polkit's answer, with their senders: once a sender is gone nobody needs it.
        self._asking: dict[asyncio.Task[Any], str] = {}
        connection.on_call(self._receive)

    def export(self, path: str, interface: Interface) -> None:
        """Serve an interface at a path, beside others."""
        self._interfaces.setdefault(path, []).append(interface)
        self._documents.clear()
        self._changes |= {method.name for method in interface.methods.values() if method.action}
        interface.serve_at(path, self._connection.send)

    def sender_gone(self, name: str) -> None:
        """What a client that has left the bus wanted, and was not yet allowed, is dropped."""
        self._strangers.pop(name, None)
        self._turns.drop(name)
        for task, sender in list(self._asking.items()):
            if sender == name:
                task.cancel()

    async def close(self) -> None:
        """Answer every call that waits or is still being served; the connection can be closed then."""
        waiting = self._turns.drop_all()
        for stranger in self._strangers.values():
            waiting += stranger.frames
        self._strangers.clear()
        for frame in waiting:
            self._connection.refuse(frame, FAILED, _SHUTTING_DOWN)
        if self._next_turn:
            self._next_turn.cancel()
        # A task that is cancelled before it begins gives no answer.
        await asyncio.sleep(0)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _receive(self, frame: Frame) -> None:
        if not frame.wants_reply and frame.member not in self._changes:
            # Nobody would see that it was served.
            return
        if frame.sender in self._strangers:
            self._let_wait(frame)
            return
        user = self._connection.known_user(frame.sender)
        if user is None:
            self._let_wait(frame)
            self._start(self._identify(frame.sender))
        else:
            self._admit(user, frame)

    def _let_wait(self, frame: Frame) -> None:
        try:
            self._strangers.setdefault(frame.sender, Stranger()).put(frame)
        except LimitExceeded as exc:
            self._connection.refuse(frame, words.error_name(exc), str(exc))

    async def _identify(self, sender: str) -> None:
        user = None
        with contextlib.suppress(NotPermitted):
            user = await self._connection.user_of(sender)
        stranger = self._strangers.pop(sender, Stranger())
        for frame in stranger.frames:
            # A client that has left needs no answer.
            if user is not None:
                self._admit(user, frame)

    def _admit(self, user: int, frame: Frame) -> None:
        if not frame.wants_reply and self._turns.is_full(user):
            return
        try:
            self._turns.put(user, frame)
        except LimitExceeded as exc:
            self._connection.refuse(frame, words.error_name(exc), str(exc))
            return
        if self._next_turn is None:
            self._next_turn = asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Begin a few calls; the event loop does all else before the next turn."""
        loop = asyncio.get_running_loop()
        if self._connection.congested:
            self._next_turn = loop.call_later(_LOOK_AGAIN_S, self._turn)
            return
        self._next_turn = None
        for _call in range(_CALLS_IN_A_TURN):
            taken = self._turns.next()
            if taken is None:
                return
            user, frame = taken
            self._start(self._serve(user, frame))
            if self._connection.behind:
                self._next_turn = loop.call_later(_LOOK_FIRST_S, self._turn)
                return
        self._next_turn = loop.call_soon(self._turn)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, user: int, frame: Frame) -> None:
        try:
            message, unreadable = frame.read()
            if message.message_type is MessageType.METHOD_CALL:
                await self._serve_message(message, unreadable)
        finally:
            self._turns.leave(user)

    async def _serve_message(self, message: Message, unreadable: str) -> None:
        _caller.set(message.sender or '')
        try:
            if unreadable:
                raise InvalidArgument(f'{message.member} was not called: {unreadable}')
            answer = await self._answer(message)
            self._reply(message, answer)
        except StandardError as exc:
            self._refuse(message, exc.name, str(exc))
        except SockaccelError as exc:
            self._refuse(message, words.error_name(exc), str(exc))
        except asyncio.CancelledError:
            self._refuse(message, FAILED, _SHUTTING_DOWN)
            raise
        except Exception:
            log.exception(f'{message.member} failed unexpectedly', member=message.member, sender=message.sender)
            self._refuse(message, FAILED, 'an internal error, see "journalctl -u sockaccel" for its details')

    def _refuse(self, message: Message, name: str, text: str) -> None:
        if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            self._connection.send(Message.new_error(message, name, text))

    def _reply(self, message: Message, answer: Answer) -> None:
        def close() -> None:
            for each in answer.handed_over:
                each.close()

        if message.flags & MessageFlag.NO_REPLY_EXPECTED:
            close()
            return
        fds = [each.fileno() for each in answer.handed_over]
        self._connection.send(Message.new_method_return(message, answer.signature, answer.body, fds), close)

    async def _answer(self, message: Message) -> Answer:
        path = message.path or ''
        call = (message.interface, message.member, message.signature)
        if call == (INTROSPECTABLE, 'Introspect', ''):
            return Answer('s', [self._introspect(path)])
        if call == (PEER, 'Ping', ''):
            return Answer()
        if call == (PEER, 'GetMachineId', ''):
            return Answer('s', [Path('/etc/machine-id').read_text().strip()])
        interfaces = self._interfaces.get(path, [])
        if not interfaces:
            raise StandardError('UnknownObject', f'there is no object "{path}"')
        if message.interface == PROPERTIES:
            return await self._property(message, interfaces)
        for interface in interfaces:
            # The specification lets a caller leave the interface out.
            if message.interface not in (None, interface.name):
                continue
            method = interface.methods.get(message.member or '')
            if method and signature(method.takes) == message.signature:
                await self._permit(message, method.name, method.action)
                return await self._call(message, interface, method)
        raise StandardError(
            'UnknownMethod',
            f'there is no method "{message.member}" for arguments of type "{message.signature}" in '
            f'"{message.interface}"',
        )

    async def _call(self, message: Message, interface: Interface, method: Method) -> Answer:
        try:
            result = method.function(interface, *message.body)
            if asyncio.iscoroutine(result):
                result = await result
        except SockaccelError as exc:
            # Log refusals only for callers that polkit allowed; others could flood the journal.
            if method.action:
                with contextlib.suppress(NotPermitted):
                    by = await self._connection.describe(caller())
                    log.info(f'{method.name} was refused: {exc} (asked by {by})', caller=by)
                # What the compiler and the verifier printed.
                for note in getattr(exc, '__notes__', []):
                    log.debug(note)
            raise
        body = [] if not method.gives else [result] if len(method.gives) == 1 else list(result)
        sockets = [value for value in body if isinstance(value, socket.socket)]
        # In the message a descriptor is its number among those that come along.
        body = [sockets.index(value) if isinstance(value, socket.socket) else value for value in body]
        return Answer(signature(method.gives), body, sockets)

    async def _property(self, message: Message, interfaces: list[Interface]) -> Answer:
        if {'Get': 'ss', 'GetAll': 's', 'Set': 'ssv'}.get(message.member or '') != message.signature:
            raise StandardError('UnknownMethod', f'there is no method "{message.member}" for properties')
        name, *rest = message.body
        interface = next((each for each in interfaces if each.name == name), None)
        if interface is None:
            raise StandardError('UnknownInterface', f'there is no interface "{name}" here')
        if message.member == 'GetAll':
            return Answer('a{sv}', [{each.name: interface.value(each) for each in interface.properties.values()}])
        wanted = interface.properties.get(rest[0])
        if wanted is None:
            raise StandardError('UnknownProperty', f'there is no property "{rest[0]}"')
        if message.member == 'Get':
            return Answer('v', [interface.value(wanted)])
        if wanted.set is None:
            raise StandardError('PropertyReadOnly', f'property "{wanted.name}" cannot be set')
        if rest[1].signature != wanted.type:
            raise InvalidArgument(f'property "{wanted.name}" is of type "{wanted.type}"')
        await self._permit(message, wanted.name, wanted.action)
        wanted.set(interface, rest[1].value)
        return Answer()

    async def _permit(self, message: Message, member: str, action: str | None) -> None:
        if action is None:
            return
        task = asyncio.current_task()
        assert task
        self._asking[task] = caller()
        interactive = bool(message.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
        subject = message.body[0] if message.body and isinstance(message.body[0], str) else ''
        try:
            await self._authorise(self._connection, Request(caller(), member, action, interactive, subject))
        finally:
            del self._asking[task]

    def _introspect(self, path: str) -> str:
        if path not in self._documents:
            below = path.rstrip('/') + '/'
            children = {each[len(below) :].split('/')[0] for each in self._interfaces if each.startswith(below)}
            interfaces = self._interfaces.get(path, [])
            if not interfaces and not children:
                raise StandardError('UnknownObject', f'there is no object "{path}"')
            self._documents[path] = introspection.document(interfaces, sorted(children))
        return self._documents[path]
