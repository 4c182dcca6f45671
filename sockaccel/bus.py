# SPDX-License-Identifier: GPL-2.0-or-later
# mypy: ignore-errors
# ruff: noqa: F722, F821, N802
"""org.sockaccel1 on the system bus, and what dbus-next 0.2.3 needs to be fit for a daemon.

dbus-next takes D-Bus signatures for annotations, which no type checker can read; they stay in this module.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import structlog
from dbus_next import (
    BusType,
    DBusError,
    ErrorType,
    Message,
    MessageType,
    NameFlag,
    PropertyAccess,
    RequestNameReply,
    Variant,
)
from dbus_next.aio import MessageBus
from dbus_next.service import ServiceInterface, dbus_property, method, signal

from sockaccel import __version__
from sockaccel.errors import (
    AskFailed,
    InvalidArgument,
    KernelRefused,
    LimitExceeded,
    NotPermitted,
    SockaccelError,
)
from sockaccel.layout import ConnectionState
from sockaccel.polkit import ACTIONS

log = structlog.stdlib.get_logger()

NAME = 'org.sockaccel1'
PATH = '/org/sockaccel1'
_DBUS = 'org.freedesktop.DBus'
CALL_TIMEOUT_S = 25.0
# More calls than this at once are answered with an error; a client can make any number.
_MAXIMUM_CALLS = 1024
# More connections than this are not put in one reply; a D-Bus message ends at 128 MiB.
_MAXIMUM_ROWS = 1000
_MAXIMUM_SUBSCRIBERS = 64
# Events beyond are dropped rather than kept in memory.
_MAXIMUM_UNSENT = 16384

_call: ContextVar[Message] = ContextVar('call')


class PatientSocket:
    """The bus's socket for dbus-next's writer, which takes a full socket for the end of the connection."""

    def __init__(self, sock):
        self._sock = sock

    def send(self, data):
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def sendmsg(self, buffers, ancillary):
        try:
            return self._sock.sendmsg(buffers, ancillary)
        except BlockingIOError:
            return 0


class Bus(MessageBus):
    """A MessageBus whose methods know their caller and always answer.

    `authorise` is awaited before each method, with the member's name. Core errors become
    org.sockaccel1.Error.*: of the standard errors busctl shows an errno's text instead of the message. Any
    other exception is logged once and hidden from the client.
    """

    variant = Variant

    def __init__(self, authorise):
        super().__init__(bus_type=BusType.SYSTEM)
        self._writer.sock = PatientSocket(self._sock)
        self._authorise = authorise
        self._calls = set()

    def export(self, path, interface):
        for exported in ServiceInterface._get_methods(interface):
            # Deny by default: a member that nobody thought of must not be callable.
            assert exported.name in ACTIONS, f'{exported.name} names no polkit action'
        super().export(path, interface)

    def _make_method_handler(self, interface, exported):
        def handler(msg, send_reply):
            if len(self._calls) >= _MAXIMUM_CALLS:
                send_reply(
                    Message.new_error(msg, f'{NAME}.Error.LimitExceeded', 'too many calls at once: try again')
                )
                return
            task = self._loop.create_task(self._serve(interface, exported, msg, send_reply))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

        return handler

    async def _serve(self, interface, exported, msg, send_reply):
        _call.set(msg)
        try:
            await self._authorise(self, msg.sender, exported.name, bool(msg.flags.value & 0x4))
            result = exported.fn(interface, *ServiceInterface._msg_body_to_args(msg))
            if asyncio.iscoroutine(result):
                result = await result
            body, fds = ServiceInterface._fn_result_to_body(result, exported.out_signature_tree)
            reply = Message.new_method_return(msg, exported.out_signature, body, fds)
        except SockaccelError as exc:
            reply = Message.new_error(msg, f'{NAME}.Error.{type(exc).__name__}', str(exc))
        except DBusError as exc:
            reply = exc._as_message(msg)
        except asyncio.CancelledError:
            send_reply(Message.new_error(msg, ErrorType.FAILED.value, 'sockaccel is shutting down'))
            raise
        except Exception:
            log.exception(f'{exported.name} failed unexpectedly', member=exported.name, sender=msg.sender)
            reply = Message.new_error(
                msg,
                ErrorType.FAILED.value,
                'an internal error, see "journalctl -u sockaccel" for its details',
            )
        send_reply(reply)

    def _default_get_machine_id_handler(self, msg, send_reply):
        send_reply(Message.new_method_return(msg, 's', [Path('/etc/machine-id').read_text().strip()]))

    async def ask(self, destination, path, interface, member, signature='', body=(), timeout=CALL_TIMEOUT_S):
        """Call a method of somebody else; returns the reply's body. Raises AskFailed."""
        message = Message(
            destination=destination, path=path, interface=interface, member=member,
            signature=signature, body=list(body), serial=self.next_serial(),
        )  # fmt: skip
        try:
            reply = await asyncio.wait_for(self.call(message), timeout)
        except TimeoutError as exc:
            raise AskFailed(f'{destination} gave no answer within {timeout:.0f} s') from exc
        finally:
            # An abandoned call would leave its handler behind for ever.
            self._method_return_handlers.pop(message.serial, None)
        if reply.message_type is MessageType.ERROR:
            raise AskFailed(reply.body[0] if reply.body else reply.error_name)
        return reply.body

    @property
    def congested(self):
        """The bus does not take what is sent as fast as it comes."""
        return self._writer.messages.qsize() > _MAXIMUM_UNSENT

    async def has_owner(self, name):
        return (await self.ask(_DBUS, '/org/freedesktop/DBus', _DBUS, 'NameHasOwner', 's', [name]))[0]

    async def user_of(self, sender):
        """The uid of a caller. Raises NotPermitted when it has left the bus."""
        try:
            return (await self.ask(_DBUS, '/org/freedesktop/DBus', _DBUS, 'GetConnectionUnixUser', 's', [sender]))[
                0
            ]
        except AskFailed as exc:
            raise NotPermitted('the caller has left the bus') from exc

    async def match(self, rule):
        await self.ask(_DBUS, '/org/freedesktop/DBus', _DBUS, 'AddMatch', 's', [rule])

    async def own_name(self):
        """Become org.sockaccel1. Raises KernelRefused where another instance is."""
        reply = await self.request_name(NAME, NameFlag.DO_NOT_QUEUE)
        if reply is not RequestNameReply.PRIMARY_OWNER:
            raise already_running()

    def when_lost(self, callback):
        """Call back once when the connection ends, however it ends; nobody is told otherwise."""

        def ended(future):
            if not future.cancelled():
                future.exception()
            callback()

        self._disconnect_future.add_done_callback(ended)

    async def close(self):
        for task in list(self._calls):
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        self.disconnect()
        with contextlib.suppress(Exception):
            await self.wait_for_disconnect()
        # dbus-next leaves both open.
        self._stream.close()
        self._sock.close()


def already_running() -> SockaccelError:
    return KernelRefused(f'another sockaccel owns the bus name "{NAME}": stop it first, or use it by sockaccelctl')


def caller():
    """The unique bus name of whoever made the call that is being served, '' outside of one."""
    message = _call.get(None)
    return message.sender if message else ''


class Manager(ServiceInterface):
    """org.sockaccel1.Manager: one line for each member over the core."""

    def __init__(self, engine, bus):
        super().__init__(f'{NAME}.Manager')
        self._engine = engine
        self._bus = bus
        self._subscribers = set()

    @method()
    async def Enable(self, target: 's'):
        await self._engine.enable(target)

    @method()
    async def EnableWithOptions(self, target: 's', options: 'a{sv}'):
        await self._engine.enable(target, **_options(options))

    @method()
    async def Disable(self, target: 's'):
        await self._engine.disable(target)

    @method()
    def Stats(self) -> 'a{st}':
        return self._engine.stats()

    @method()
    def TargetStats(self, target: 's') -> 'a{st}':
        return self._engine.target_stats(target)

    @method()
    def ListTargets(self) -> 'a(sss)':
        return [[row.name, row.state.value, row.detail] for row in self._engine.targets()]

    @method()
    def ListConnections(self) -> 'aa{sv}t':
        rows = [row for row in self._engine.connections() if row[0].state is ConnectionState.JOINED]
        return [[self.row(event, target) for event, target in rows[:_MAXIMUM_ROWS]], len(rows)]

    @method()
    def Findings(self) -> 'a(sss)':
        return [[finding.name, finding.severity, finding.sentence] for finding in self._engine.findings]

    @method()
    def Reasons(self) -> 'a(sss)':
        return [[counter.name, counter.kind, counter.sentence] for counter in self._engine.counters]

    @method()
    def Subscribe(self):
        if len(self._subscribers) >= _MAXIMUM_SUBSCRIBERS:
            raise LimitExceeded('too many clients follow the events already')
        self._subscribers.add(caller())

    @method()
    def Unsubscribe(self):
        self._subscribers.discard(caller())

    @signal()
    def ConnectionEvent(self, event: 'a{sv}') -> 'a{sv}':
        return event

    @dbus_property(access=PropertyAccess.READ)
    def Version(self) -> 's':
        return __version__

    @dbus_property(access=PropertyAccess.READ)
    def KernelRelease(self) -> 's':
        return os.uname().release

    @dbus_property(access=PropertyAccess.READ)
    def Targets(self) -> 'as':
        return [row.name for row in self._engine.targets()]

    @dbus_property(access=PropertyAccess.READ)
    def Degraded(self) -> 's':
        return '; '.join(finding.sentence for finding in self._engine.findings if finding.severity == 'issue')

    def targets_changed(self):
        self.emit_properties_changed({'Targets': self.Targets})

    def publish(self, event, target):
        if self._subscribers and not self._bus.congested:
            self.ConnectionEvent(self.row(event, target))

    def owner_changed(self, name, new_owner):
        if not new_owner:
            self._subscribers.discard(name)

    def row(self, event, target):
        reason = self._engine.reason(event.reason)
        values = {
            'kind': ('s', event.kind.name.lower()),
            'state': ('s', event.state.name.lower()),
            'target': ('s', target),
            'local': ('s', event.flow.local),
            'local_port': ('q', event.flow.local_port),
            'remote': ('s', event.flow.remote),
            'remote_port': ('q', event.flow.remote_port),
            'netns_cookie': ('t', event.flow.netns),
            'active': ('b', event.active),
            'program': ('s', event.program),
            'pid': ('u', event.pid),
            'cgroup_id': ('t', event.cgroup),
            'reason': ('s', reason.name if reason else ''),
            'redirected_bytes': ('t', event.redirected_bytes),
            'redirected_messages': ('t', event.redirected_messages),
            'tcp_bytes': ('t', event.tcp_bytes),
            'tcp_messages': ('t', event.tcp_messages),
            'time_ns': ('t', event.time_ns),
        }
        return {key: Variant(*value) for key, value in values.items()}


def _options(options):
    """What EnableWithOptions takes: accept (as), the names of kernel issues to put up with."""
    unknown = set(options) - {'accept'}
    if unknown:
        raise InvalidArgument(f'option "{sorted(unknown)[0]}" is unknown, the only one is "accept"')
    accept = options.get('accept')
    if accept is not None and accept.signature != 'as':
        raise InvalidArgument(f'option "accept" is of type "{accept.signature}", not "as"')
    return {'accept': accept.value if accept else ()}


async def connect(authorise: Any) -> Any:
    """A connection to the system bus. Raises KernelRefused with the reason why there is none."""
    try:
        bus = Bus(authorise)
        await bus.connect()
    except Exception as exc:
        raise KernelRefused(
            f'cannot connect to the system bus ({exc}): is dbus-daemon or dbus-broker running, and '
            'DBUS_SYSTEM_BUS_ADDRESS right?'
        ) from exc
    return bus


async def export(bus: Any, engine: Any, on_name_lost: Callable[[], None]) -> Any:
    """Put the manager on the bus; the name comes later, as the last step. Returns the Manager."""
    manager = Manager(engine, bus)
    bus.export(PATH, manager)

    def watch(msg):
        if msg.message_type is MessageType.SIGNAL and msg.sender == _DBUS:
            if msg.member == 'NameOwnerChanged':
                manager.owner_changed(msg.body[0], msg.body[2])
            elif msg.member == 'NameLost' and msg.body[0] == NAME:
                on_name_lost()
        return False

    bus.add_message_handler(watch)
    await bus.match(f"type='signal',sender='{_DBUS}',interface='{_DBUS}',member='NameOwnerChanged',arg2=''")
    return manager
