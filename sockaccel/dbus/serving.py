# SPDX-License-Identifier: GPL-2.0-or-later
"""Serves objects to others: each call is a task, which ends in exactly one answer."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from sockaccel.core import words
from sockaccel.dbus import introspection
from sockaccel.dbus.connection import Connection
from sockaccel.dbus.interface import Interface, Method, signature
from sockaccel.dbus.message import (
    FAILED,
    INTROSPECTABLE,
    PEER,
    PROPERTIES,
    Message,
    MessageFlag,
    StandardError,
)
from sockaccel.errors import InvalidArgument, LimitExceeded, NotPermitted, SockaccelError

log = structlog.stdlib.get_logger()

# More calls than this at once are answered with an error; a client can make any number.
_MAXIMUM_CALLS, _MAXIMUM_CALLS_OF_ONE = 8192, 1024

_caller: ContextVar[str] = ContextVar('caller', default='')

# Signature and body of an answer.
Answer = tuple[str, list[Any]]


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


class Admission:
    """How many calls are being served, of whom; the one place that says no to too many."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()

    def enter(self, sender: str) -> None:
        """Raises LimitExceeded, and then there is nothing to `leave()`."""
        if self._calls.total() >= _MAXIMUM_CALLS:
            raise LimitExceeded('too many calls at once: try again')
        if self._calls[sender] >= _MAXIMUM_CALLS_OF_ONE:
            raise LimitExceeded('too many calls of this client at once: wait for answers')
        self._calls[sender] += 1

    def leave(self, sender: str) -> None:
        self._calls[sender] -= 1
        if not self._calls[sender]:
            del self._calls[sender]


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
        self._admission = Admission()
        self._calls: set[asyncio.Task[None]] = set()
        # Those that wait for polkit's answer, with their senders: once a sender is gone nobody needs it.
        self._asking: dict[asyncio.Task[Any], str] = {}
        connection.on_call(self._receive)

    def export(self, path: str, interface: Interface) -> None:
        """Serve an interface at a path, beside others."""
        self._interfaces.setdefault(path, []).append(interface)
        interface.serve_at(path, self._connection.send)

    def sender_gone(self, name: str) -> None:
        """What a client that has left the bus wanted, and was not yet allowed, is dropped."""
        for task, sender in list(self._asking.items()):
            if sender == name:
                task.cancel()

    async def close(self) -> None:
        """Answer every call that is still being served; the connection can be closed then."""
        for task in list(self._calls):
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _receive(self, message: Message, unreadable: str) -> None:
        sender = message.sender or ''
        try:
            self._admission.enter(sender)
        except LimitExceeded as exc:
            self._refuse(message, words.error_name(exc), str(exc))
            return
        task = asyncio.get_running_loop().create_task(self._serve(message, unreadable))
        self._calls.add(task)

        def done(ended: asyncio.Task[None]) -> None:
            self._calls.discard(ended)
            self._admission.leave(sender)

        task.add_done_callback(done)

    async def _serve(self, message: Message, unreadable: str) -> None:
        _caller.set(message.sender or '')
        try:
            if unreadable:
                raise InvalidArgument(f'{message.member} was not called: {unreadable}')
            answer = await self._answer(message)
            self._reply(message, Message.new_method_return(message, *answer))
        except StandardError as exc:
            self._refuse(message, exc.name, str(exc))
        except SockaccelError as exc:
            self._refuse(message, words.error_name(exc), str(exc))
        except asyncio.CancelledError:
            self._refuse(message, FAILED, 'sockaccel is shutting down')
            raise
        except Exception:
            log.exception(f'{message.member} failed unexpectedly', member=message.member, sender=message.sender)
            self._refuse(message, FAILED, 'an internal error, see "journalctl -u sockaccel" for its details')

    def _refuse(self, message: Message, name: str, text: str) -> None:
        self._reply(message, Message.new_error(message, name, text))

    def _reply(self, message: Message, reply: Message) -> None:
        if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            self._connection.send(reply)

    async def _answer(self, message: Message) -> Answer:
        path = message.path or ''
        call = (message.interface, message.member, message.signature)
        if call == (INTROSPECTABLE, 'Introspect', ''):
            return 's', [self._introspect(path)]
        if call == (PEER, 'Ping', ''):
            return '', []
        if call == (PEER, 'GetMachineId', ''):
            return 's', [Path('/etc/machine-id').read_text().strip()]
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
            raise
        body = [] if not method.gives else [result] if len(method.gives) == 1 else list(result)
        return signature(method.gives), body

    async def _property(self, message: Message, interfaces: list[Interface]) -> Answer:
        if {'Get': 'ss', 'GetAll': 's', 'Set': 'ssv'}.get(message.member or '') != message.signature:
            raise StandardError('UnknownMethod', f'there is no method "{message.member}" for properties')
        name, *rest = message.body
        interface = next((each for each in interfaces if each.name == name), None)
        if interface is None:
            raise StandardError('UnknownInterface', f'there is no interface "{name}" here')
        if message.member == 'GetAll':
            return 'a{sv}', [{each.name: interface.value(each) for each in interface.properties.values()}]
        wanted = interface.properties.get(rest[0])
        if wanted is None:
            raise StandardError('UnknownProperty', f'there is no property "{rest[0]}"')
        if message.member == 'Get':
            return 'v', [interface.value(wanted)]
        if wanted.set is None:
            raise StandardError('PropertyReadOnly', f'property "{wanted.name}" cannot be set')
        if rest[1].signature != wanted.type:
            raise InvalidArgument(f'property "{wanted.name}" is of type "{wanted.type}"')
        await self._permit(message, wanted.name, wanted.action)
        wanted.set(interface, rest[1].value)
        return '', []

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
        below = path.rstrip('/') + '/'
        children = {each[len(below) :].split('/')[0] for each in self._interfaces if each.startswith(below)}
        interfaces = self._interfaces.get(path, [])
        if not interfaces and not children:
            raise StandardError('UnknownObject', f'there is no object "{path}"')
        return introspection.document(interfaces, sorted(children))
