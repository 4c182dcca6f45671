# SPDX-License-Identifier: GPL-2.0-or-later
# mypy: ignore-errors
# ruff: noqa: BLE001, E402, F722, F811, F821, N802
"""org.sockaccel1 on the system bus, and what dbus-next 0.2.3 needs to be fit for a daemon.

dbus-next takes D-Bus signatures for annotations, which no type checker can read; they stay in this module.
"""

import asyncio
import contextlib
import io
import os
import struct
import typing
import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import structlog

if not hasattr(typing, 'no_type_check_decorator'):
    # Gone from Python 3.15; dbus-next imports it.
    typing.no_type_check_decorator = lambda decorator: decorator

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
from dbus_next._private.constants import LITTLE_ENDIAN
from dbus_next._private.unmarshaller import MarshallerStreamEndError, Unmarshaller
from dbus_next.aio import MessageBus
from dbus_next.introspection import Node
from dbus_next.service import ServiceInterface, dbus_property, method, signal
from dbus_next.signature import SignatureTree

from sockaccel import __version__
from sockaccel.bus.polkit import ACTIONS
from sockaccel.core.listing import Filter
from sockaccel.core.target import quote
from sockaccel.errors import (
    AlreadyRunning,
    AskFailed,
    InvalidArgument,
    LimitExceeded,
    NoSystemBus,
    NotPermitted,
    SockaccelError,
)

log = structlog.stdlib.get_logger()

NAME = 'org.sockaccel1'
PATH = '/org/sockaccel1'
_DBUS = 'org.freedesktop.DBus'
CALL_TIMEOUT_S = 25.0
# More calls than this at once are answered with an error; a client can make any number.
_MAXIMUM_CALLS, _MAXIMUM_CALLS_OF_ONE = 8192, 1024
# dbus-next reads a message in the event loop, about a megabyte a second. No call of ours needs more.
_MAXIMUM_BODY = 65536
# More connections than this are not put in one reply; a D-Bus message ends at 128 MiB.
_MAXIMUM_ROWS = 1000
_MAXIMUM_SUBSCRIBERS = 64
_MAXIMUM_SIGNATURES = 1024
# Events beyond are dropped rather than kept in memory.
_MAXIMUM_UNSENT = 16384
# Flags of the protocol, which dbus-next's MessageFlag names.
_NO_REPLY_EXPECTED, _ALLOW_INTERACTIVE_AUTHORIZATION = 0x1, 0x4
# No call of ours ever has it.
_NOBODYS_SERIAL = 0xFFFFFFFF

# Of every other property a change is signalled.
_EMITS_CHANGED = {
    'Version': 'const', 'KernelRelease': 'const',
    'LogLevel': 'false', 'LogTarget': 'false', 'SyslogIdentifier': 'const',
}  # fmt: skip
_DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)

_call: ContextVar[Message] = ContextVar('call')


class SignatureCache(dict):
    """dbus-next remembers every signature that it ever met, and a client can send ever new ones."""

    def __setitem__(self, signature, tree):
        if len(self) >= _MAXIMUM_SIGNATURES:
            self.clear()
        super().__setitem__(signature, tree)


SignatureTree._cache = SignatureCache(SignatureTree._cache)


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


def be_patient(bus: Any) -> None:
    """Before it connects."""
    bus._writer.sock = PatientSocket(bus._sock)


class Reader(Unmarshaller):
    """Reads one message. dbus-next takes one that it cannot read for the end of the connection.

    Such a message, or a call that is longer than any of ours needs to be, becomes a call without its body;
    `unreadable` says why. A message whose very header cannot be read is left out.
    """

    unreadable = ''

    def unmarshall(self):
        self.unreadable = ''
        try:
            # Returns, or raises MarshallerStreamEndError, with the offset at 0: what comes is read again.
            self.offset = 0
            self.read(16, prefetch=True)
            order = '<' if self.buf[0] == LITTLE_ENDIAN else '>'
            kind, body, header = self.buf[1], *struct.unpack_from(order + 'I4xI', self.buf, 4)
            self.read(16 + header + -header % 8 + body, prefetch=True)
        except MarshallerStreamEndError:
            return None
        # A length that is wrong must not reach into the next message.
        self.stream = io.BytesIO()
        if kind == MessageType.METHOD_CALL.value and body > _MAXIMUM_BODY:
            return self._without_body('the message is too long')
        try:
            self._unmarshall()
        except Exception as exc:
            return self._without_body(f'the message cannot be read ({type(exc).__name__})')
        return self.message

    def _without_body(self, why):
        self.buf[4:8] = bytes(4)
        try:
            self._unmarshall()
        except Exception:
            log.warning('A D-Bus message has a header that cannot be read, ignoring')
            self.message = Message(message_type=MessageType.METHOD_RETURN, reply_serial=_NOBODYS_SERIAL)
        self.unreadable = why
        return self.message


class Bus(MessageBus):
    """A MessageBus whose methods know their caller and always answer.

    `authorise` is awaited before each change, with the member's name. Core errors become
    org.sockaccel1.Error.*: of the standard errors busctl shows an errno's text instead of the message. Any
    other exception is logged once and hidden from the client.
    """

    variant = Variant

    def __init__(self, authorise):
        super().__init__(bus_type=BusType.SYSTEM)
        be_patient(self)
        self._authorise = authorise
        # Each call's task, with its sender.
        self._calls = {}
        # Those that wait for a yes, which nobody needs any more once the sender is gone.
        self._asking = {}

    def export(self, path, interface):
        members = [exported.name for exported in ServiceInterface._get_methods(interface)]
        members += [each.name for each in ServiceInterface._get_properties(interface) if each.access.writable()]
        for member in members:
            # Deny by default: a member that nobody thought of must not be callable.
            assert member in ACTIONS, f'{member} names no polkit action'
        super().export(path, interface)

    def _create_unmarshaller(self):
        return Reader(self._stream)

    def _process_message(self, msg):
        if msg.message_type is not MessageType.METHOD_CALL:
            super()._process_message(msg)
        elif len(self._calls) >= _MAXIMUM_CALLS:
            self._reply(msg, _error(msg, LimitExceeded('too many calls at once: try again')))
        elif list(self._calls.values()).count(msg.sender) >= _MAXIMUM_CALLS_OF_ONE:
            self._reply(msg, _error(msg, LimitExceeded('too many calls of this client at once: wait for answers')))
        else:
            task = self._loop.create_task(self._serve(msg, self._unmarshaller.unreadable))
            self._calls[task] = msg.sender
            task.add_done_callback(self._calls.pop)

    async def _serve(self, msg, unreadable):
        _call.set(msg)
        try:
            if unreadable:
                raise InvalidArgument(f'{msg.member} was not called: {unreadable}')
            signature, body = await self._dispatch(msg)
            self._reply(msg, Message.new_method_return(msg, signature, body))
        except (SockaccelError, DBusError) as exc:
            self._reply(msg, _error(msg, exc))
        except asyncio.CancelledError:
            self._reply(msg, Message.new_error(msg, ErrorType.FAILED.value, 'sockaccel is shutting down'))
            raise
        except Exception:
            log.exception(f'{msg.member} failed unexpectedly', member=msg.member, sender=msg.sender)
            failed = 'an internal error, see "journalctl -u sockaccel" for its details'
            self._reply(msg, Message.new_error(msg, ErrorType.FAILED.value, failed))

    def _reply(self, msg, reply):
        if not msg.flags.value & _NO_REPLY_EXPECTED:
            self.send(reply)

    async def _dispatch(self, msg):
        """Signature and body of the answer. dbus-next's own dispatch logs a traceback for each wrong name."""
        exports = self._path_exports.get(msg.path, [])
        call = (msg.interface, msg.member, msg.signature)
        if call == (f'{_DBUS}.Introspectable', 'Introspect', ''):
            return 's', [self._introspection(msg.path)]
        if call == (f'{_DBUS}.Peer', 'Ping', ''):
            return '', []
        if call == (f'{_DBUS}.Peer', 'GetMachineId', ''):
            return 's', [Path('/etc/machine-id').read_text().strip()]
        if not exports:
            raise DBusError(ErrorType.UNKNOWN_OBJECT, f'there is no object "{msg.path}"')
        if msg.interface == f'{_DBUS}.Properties':
            return await self._property(msg, exports)
        for interface in exports:
            # The specification lets a caller leave the interface out.
            if msg.interface not in (None, interface.name):
                continue
            for exported in ServiceInterface._get_methods(interface):
                if (exported.name, exported.in_signature) == (msg.member, msg.signature):
                    await self._permit(msg, exported.name)
                    result = await self._call_member(msg, interface, exported)
                    body, _fds = ServiceInterface._fn_result_to_body(result, exported.out_signature_tree)
                    return exported.out_signature, body
        raise DBusError(
            ErrorType.UNKNOWN_METHOD,
            f'there is no method "{msg.member}" for arguments of type "{msg.signature}" in "{msg.interface}"',
        )

    async def _call_member(self, msg, interface, exported):
        try:
            result = exported.fn(interface, *msg.body)
            return await result if asyncio.iscoroutine(result) else result
        except SockaccelError as exc:
            # What somebody who may has wanted belongs to the story; who may not could fill the log with it.
            if ACTIONS[exported.name]:
                with contextlib.suppress(NotPermitted):
                    by = await self.describe(msg.sender)
                    log.info(f'{exported.name} was refused: {exc} (asked by {by})', caller=by)
            raise

    async def _property(self, msg, exports):
        if {'Get': 'ss', 'GetAll': 's', 'Set': 'ssv'}.get(msg.member) != msg.signature:
            raise DBusError(ErrorType.UNKNOWN_METHOD, f'there is no method "{msg.member}" for properties')
        interface = next((each for each in exports if each.name == msg.body[0]), None)
        if interface is None:
            raise DBusError(ErrorType.UNKNOWN_INTERFACE, f'there is no interface "{msg.body[0]}" here')
        properties = {each.name: each for each in ServiceInterface._get_properties(interface)}
        if msg.member == 'GetAll':
            return 'a{sv}', [
                {name: Variant(each.signature, getattr(interface, name)) for name, each in properties.items()}
            ]
        wanted = properties.get(msg.body[1])
        if wanted is None:
            raise DBusError(ErrorType.UNKNOWN_PROPERTY, f'there is no property "{msg.body[1]}"')
        if msg.member == 'Get':
            return 'v', [Variant(wanted.signature, getattr(interface, wanted.name))]
        if not wanted.access.writable():
            raise DBusError(ErrorType.PROPERTY_READ_ONLY, f'property "{wanted.name}" cannot be set')
        if msg.body[2].signature != wanted.signature:
            raise InvalidArgument(f'property "{wanted.name}" is of type "{wanted.signature}"')
        await self._permit(msg, wanted.name)
        setattr(interface, wanted.name, msg.body[2].value)
        return '', []

    async def _permit(self, msg, member):
        task = asyncio.current_task()
        self._asking[task] = msg.sender
        try:
            interactive = bool(msg.flags.value & _ALLOW_INTERACTIVE_AUTHORIZATION)
            subject = msg.body[0] if msg.body and isinstance(msg.body[0], str) else ''
            await self._authorise(self, msg.sender, member, interactive, subject)
        finally:
            del self._asking[task]

    def _introspection(self, path):
        """dbus-next finds children by the text of their paths, and knows no annotations."""
        below = path.rstrip('/') + '/'
        children = sorted(
            {each[len(below) :].split('/')[0] for each in self._path_exports if each.startswith(below)}
        )
        exports = self._path_exports.get(path, [])
        if not exports and not children:
            raise DBusError(ErrorType.UNKNOWN_OBJECT, f'there is no object "{path}"')
        standard = [each for each in Node.default().interfaces if not each.name.endswith('.ObjectManager')]
        node = Node(path, [*standard, *(each.introspect() for each in exports)] if exports else [])
        node.nodes = [Node(name) for name in children]
        xml = node.to_xml()
        for element in xml.iter('property'):
            if emits := _EMITS_CHANGED.get(element.get('name')):
                ET.SubElement(element, 'annotation', name=f'{_DBUS}.Property.EmitsChangedSignal', value=emits)
        ET.indent(xml)
        return _DOCTYPE + ET.tostring(xml, encoding='unicode')

    async def ask(self, destination, path, interface, member, signature='', body=(), timeout=CALL_TIMEOUT_S):
        """Call a method of somebody else; returns the reply's body. Raises AskFailed."""
        if self._disconnected:
            raise AskFailed('the connection to the bus is lost')
        message = self._message(destination, path, interface, member, signature, body)
        try:
            reply = await asyncio.wait_for(self.call(message), timeout)
        except TimeoutError as exc:
            raise AskFailed(f'{destination} gave no answer within {timeout:.0f} s') from exc
        except (EOFError, OSError) as exc:
            raise AskFailed('the connection to the bus is lost') from exc
        finally:
            # An abandoned call would leave its handler behind for ever.
            self._method_return_handlers.pop(message.serial, None)
        if reply.message_type is MessageType.ERROR:
            raise AskFailed(reply.body[0] if reply.body else reply.error_name)
        return reply.body

    def send(self, msg):
        """Nobody has to wait for it. On a lost connection, whose end somebody else tells of, it does nothing."""
        if self._disconnected:
            sent = self._loop.create_future()
            sent.set_result(None)
            return sent
        sent = super().send(msg)
        # Asked for its exception, so that asyncio does not complain that nobody did.
        sent.add_done_callback(lambda future: future.cancelled() or future.exception())
        return sent

    def tell(self, destination, path, interface, member, signature='', body=()):
        """Call a method of somebody else whose answer matters to nobody."""
        message = self._message(destination, path, interface, member, signature, body)
        message.flags = type(message.flags)(_NO_REPLY_EXPECTED)
        self.send(message)

    def _message(self, destination, path, interface, member, signature, body):
        return Message(
            destination=destination, path=path, interface=interface, member=member,
            signature=signature, body=list(body), serial=self.next_serial(),
        )  # fmt: skip

    @property
    def congested(self):
        """The bus does not take what is sent as fast as it comes."""
        return self._writer.messages.qsize() > _MAXIMUM_UNSENT

    async def has_owner(self, name):
        return (await self.ask(_DBUS, '/org/freedesktop/DBus', _DBUS, 'NameHasOwner', 's', [name]))[0]

    async def available(self, name):
        """Whether the name has an owner, or would get one with the first message."""
        activatable = await self.ask(_DBUS, '/org/freedesktop/DBus', _DBUS, 'ListActivatableNames')
        return name in activatable[0] or await self.has_owner(name)

    async def user_of(self, sender):
        """The uid of a caller. Raises NotPermitted when it has left the bus."""
        return await self._ask_of(sender, 'GetConnectionUnixUser')

    async def describe(self, sender):
        """User and program of a caller, for the journal. Raises NotPermitted when it has left the bus."""
        user, pid = await self.user_of(sender), await self._ask_of(sender, 'GetConnectionUnixProcessID')
        try:
            program = Path(f'/proc/{pid}/comm').read_text(errors='replace').strip()
        except OSError:
            program = 'process'
        return f'uid {user}, {program}[{pid}]'

    async def _ask_of(self, sender, member):
        # Not GetConnectionCredentials: dbus-broker ends a connection that cannot take the fd in its answer.
        try:
            return (await self.ask(_DBUS, '/org/freedesktop/DBus', _DBUS, member, 's', [sender]))[0]
        except AskFailed as exc:
            raise NotPermitted('the caller has left the bus') from exc

    async def match(self, rule):
        await self.ask(_DBUS, '/org/freedesktop/DBus', _DBUS, 'AddMatch', 's', [rule])

    async def own_name(self):
        """Become org.sockaccel1. Raises AlreadyRunning."""
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

    def sender_gone(self, name):
        """What a client that has left wanted, and was not yet allowed, is dropped."""
        for task, sender in list(self._asking.items()):
            if sender == name:
                task.cancel()

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


def _error(msg, exc):
    if isinstance(exc, DBusError):
        return exc._as_message(msg)
    return Message.new_error(msg, f'{NAME}.Error.{type(exc).__name__}', str(exc))


def already_running() -> SockaccelError:
    return AlreadyRunning(
        f'another sockaccel owns the bus name "{NAME}": stop it first, or use it by sockaccelctl'
    )


def caller():
    """The unique bus name of whoever made the call that is being served, '' outside of one."""
    message = _call.get(None)
    return message.sender if message else ''


class Manager(ServiceInterface):
    """org.sockaccel1.Manager: one line for each member over the core."""

    def __init__(self, bus, engine, connections, reload, settings):
        super().__init__(f'{NAME}.Manager')
        self._bus = bus
        self._engine = engine
        self._connections = connections
        self._reload = reload
        self._settings = settings
        self._subscribers = set()
        self._told = {}

    @method()
    async def Enable(self, target: 's'):
        await self._engine.enable(target, by=await self._bus.describe(caller()))

    @method()
    async def EnableWithOptions(self, target: 's', options: 'a{sv}'):
        chosen = _options(options, accept='as', runtime='b')
        await self._engine.enable(target, by=await self._bus.describe(caller()), **chosen)

    @method()
    async def Disable(self, target: 's'):
        await self._engine.disable(target, by=await self._bus.describe(caller()))

    @method()
    async def DisableWithOptions(self, target: 's', options: 'a{sv}'):
        chosen = _options(options, runtime='b')
        await self._engine.disable(target, by=await self._bus.describe(caller()), **chosen)

    @method()
    def Stats(self) -> 'a{st}':
        return self._engine.stats()

    @method()
    def TargetStats(self, target: 's') -> 'a{st}':
        return self._engine.target_stats(target)

    @method()
    def StatsSinceReset(self, target: 's') -> 'a{st}':
        return self._engine.stats_since_reset(target)

    @method()
    def ResetCounters(self, target: 's'):
        self._engine.reset_counters(target)

    @method()
    def ListTargets(self) -> 'a(sss)':
        return [[row.name, row.state.value, row.detail] for row in self._engine.targets()]

    @method()
    async def ListConnections(self, wanted: 'a{sv}', listing: 't', offset: 't') -> 'aa{sv}tt':
        chosen = Filter.parse({name: value.value for name, value in wanted.items()})
        page = await self._connections.page(chosen, listing, offset)
        return [[_connection(row) for row in page.connections], page.total, page.listing]

    @method()
    async def ListEnds(self) -> 'aa{sv}t':
        ends, total = await self._connections.joined_ends(_MAXIMUM_ROWS)
        return [[self.row(event, target) for event, target in ends], total]

    @method()
    def Findings(self) -> 'a(sss)':
        return [[finding.name, finding.severity, finding.sentence] for finding in self._engine.findings]

    @method()
    def Reasons(self) -> 'a(sss)':
        return [[counter.name, counter.kind, counter.sentence] for counter in self._engine.counters]

    @method()
    def Configuration(self) -> 'a(sss)':
        return [list(row) for row in self._settings().rows()]

    @method()
    async def Reload(self):
        await self._reload(await self._bus.describe(caller()))

    @method()
    def Subscribe(self):
        if len(self._subscribers | {caller()}) > _MAXIMUM_SUBSCRIBERS:
            raise LimitExceeded('too many clients follow the events already')
        self._subscribers.add(caller())

    @method()
    def Unsubscribe(self):
        self._subscribers.discard(caller())

    @signal()
    def ConnectionEvent(self, event: 'a{sv}') -> 'a{sv}':
        return event

    @signal()
    def TargetChanged(self, target: 's', state: 's', detail: 's') -> 'sss':
        return [target, state, detail]

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
        """Tell the bus what is different from the last time."""
        rows = self._engine.targets()
        now = {row.name: (row.state.value, row.detail) for row in rows}
        for name in self._told.keys() - now.keys():
            self.TargetChanged(name, 'disabled', '')
        for name, told in now.items():
            if self._told.get(name) != told:
                self.TargetChanged(name, *told)
        self._told = now
        self.emit_properties_changed({'Targets': [row.name for row in rows], 'Degraded': self.Degraded})

    def publish(self, event, target):
        if self._subscribers and not self._bus.congested:
            self.ConnectionEvent(self.row(event, target))

    def owner_changed(self, name, new_owner):
        if not new_owner:
            self._subscribers.discard(name)
            self._bus.sender_gone(name)

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


class LogControl(ServiceInterface):
    """org.freedesktop.LogControl1, what `systemctl service-log-level` speaks."""

    def __init__(self, log_control):
        super().__init__('org.freedesktop.LogControl1')
        self._log = log_control

    @dbus_property()
    def LogLevel(self) -> 's':
        return self._log.level()

    @LogLevel.setter
    def LogLevel(self, value: 's'):
        self._log.set_level(value)

    @dbus_property()
    def LogTarget(self) -> 's':
        return self._log.target()

    @LogTarget.setter
    def LogTarget(self, value: 's'):
        self._log.set_target(value)

    @dbus_property(access=PropertyAccess.READ)
    def SyslogIdentifier(self) -> 's':
        return self._log.IDENTIFIER


def _connection(row):
    client, server = row.client, row.server
    flow = client.flow if client else server.flow
    here = ((flow.local, flow.local_port), (flow.remote, flow.remote_port))
    ends = here if client else here[::-1]
    values = {
        'target': ('s', row.target),
        'path': ('s', row.path),
        'state': ('s', row.state.name.lower()),
        'age_ns': ('t', row.age_ns),
        'netns_cookie': ('t', flow.netns),
    }
    for name, end, (address, port), reason, cgroup in (
        ('client', client, ends[0], row.client_reason, row.client_cgroup),
        ('server', server, ends[1], row.server_reason, row.server_cgroup),
    ):
        values |= {
            f'{name}_address': ('s', address),
            f'{name}_port': ('q', port),
            f'{name}_cgroup': ('s', cgroup),
            f'{name}_reason': ('s', reason),
            f'{name}_program': ('s', end.program if end else ''),
            f'{name}_pid': ('u', end.pid if end else 0),
            f'{name}_redirected_bytes': ('t', end.redirected_bytes if end else 0),
            f'{name}_redirected_messages': ('t', end.redirected_messages if end else 0),
            f'{name}_tcp_bytes': ('t', end.tcp_bytes if end else 0),
            f'{name}_tcp_messages': ('t', end.tcp_messages if end else 0),
        }
    return {key: Variant(*value) for key, value in values.items()}


def _options(options, **types):
    """Options as keyword arguments of the core's. types: what there is, and of which D-Bus type."""
    for name, value in options.items():
        if name not in types:
            raise InvalidArgument(f'option {quote(name)} is unknown, there is {", ".join(types)}')
        if value.signature != types[name]:
            raise InvalidArgument(f'option "{name}" is of type "{value.signature}", not "{types[name]}"')
    return {name: value.value for name, value in options.items()}


async def connect(authorise: Any) -> Any:
    """A connection to the system bus. Raises NoSystemBus."""
    try:
        bus = Bus(authorise)
        await bus.connect()
    except Exception as exc:
        raise NoSystemBus(
            f'cannot connect to the system bus ({exc}): is dbus-daemon or dbus-broker running, and '
            'DBUS_SYSTEM_BUS_ADDRESS right?'
        ) from exc
    return bus


async def export(
    bus: Any,
    engine: Any,
    connections: Any,
    reload: Callable[[str], Awaitable[None]],
    settings: Callable[[], Any],
    on_name_lost: Callable[[], None],
    log_control: Any,
) -> Any:
    """Put everything on the bus; the name comes later, as the last step. Returns the Manager.

    reload: reads the configuration anew, for the caller that it is told; settings: what is in force. log_control:
    sockaccel.systemd.journal, or another object with its level, set_level, target, set_target and IDENTIFIER.
    """
    manager = Manager(bus, engine, connections, reload, settings)
    bus.export(PATH, manager)
    bus.export('/org/freedesktop/LogControl1', LogControl(log_control))

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
