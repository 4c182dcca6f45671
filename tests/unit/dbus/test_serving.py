# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: N802
"""Each call gets one answer, whatever becomes of it. There is no bus: messages go in and out by hand."""

import asyncio
import socket
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import structlog

from sockaccel.dbus import serving
from sockaccel.dbus.connection import Connection
from sockaccel.dbus.inbox import Frame
from sockaccel.dbus.interface import Interface, Signal, method, prop
from sockaccel.dbus.message import PROPERTIES, Message, MessageFlag, MessageType, Variant
from sockaccel.dbus.serving import Request, Server
from sockaccel.errors import KernelRefused, NotPermitted, SockaccelError, UnknownTarget

PATH, NAME = '/org/example', 'org.example.Thing'


class Thing(Interface):
    Changed = Signal('s name, a{sv} row')

    def __init__(self) -> None:
        super().__init__(NAME)
        self.size = 1
        self.ours: socket.socket | None = None
        self.gate = asyncio.Event()

    @method('s text, u times', 's result', action=None)
    def Repeat(self, text: str, times: int) -> str:
        return text * times

    @method('', 's caller, u number', action=None)
    async def Two(self) -> tuple[str, int]:
        return serving.caller(), 2

    @method('', 'h stream', action=None)
    def Open(self) -> socket.socket:
        self.ours, theirs = socket.socketpair()
        return theirs

    @method('s name', action='org.example.change')
    def Fail(self, name: str) -> None:
        raise {'core': UnknownTarget, 'kernel': KernelRefused, 'defect': ZeroDivisionError}[name]('a sentence')

    @method('s name', action='org.example.change')
    async def Wait(self, _name: str) -> None:
        await self.gate.wait()

    @prop('u')
    def Size(self) -> int:
        return self.size

    @Size.setter('org.example.resize')
    def _set_size(self, value: int) -> None:
        self.size = value

    @prop('s', emits='const')
    def Version(self) -> str:
        return '1'


@dataclass(slots=True)
class Given(Frame):
    """A call that was never bytes."""

    message: Message | None = None
    unreadable: str = ''

    def read(self) -> tuple[Message, str]:
        assert self.message
        return self.message, self.unreadable


USERS = {':1.7': 1000, ':1.8': 1001, ':1.70': 1000, ':1.0': 0}
GONE = ':1.666'


class Wire(Connection):
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.news = asyncio.Event()
        self.receive: Callable[[Frame], None] = lambda _frame: None
        self.refused: list[str] = []
        self.full = self.late = False

    @property
    def congested(self) -> bool:
        return self.full

    @property
    def behind(self) -> bool:
        return self.late

    def on_call(self, receive: Callable[[Frame], None]) -> None:
        self.receive = receive

    def send(self, message: Message, sent: Callable[[], None] = lambda: None) -> None:
        self.sent.append(message)
        self.news.set()
        sent()

    def refuse(self, frame: Frame, name: str, text: str) -> None:
        self.refused.append(name)
        self.send(Message.new_error(frame.read()[0], name, text))

    def known_user(self, sender: str) -> int | None:
        return USERS.get(sender)

    async def user_of(self, sender: str) -> int:
        if sender == GONE:
            raise NotPermitted('the caller has left the bus')
        return USERS.setdefault(sender, 1000)

    async def describe(self, sender: str) -> str:
        return f'user of {sender}'


class Bench:
    """A server with a Thing, and who may what."""

    def __init__(self) -> None:
        self.wire, self.thing = Wire(), Thing()
        self.asked: list[Request] = []
        self.answer: SockaccelError | None = None
        self.server = Server(self.wire, self._authorise)
        self.server.export(PATH, self.thing)

    async def _authorise(self, _connection: Connection, request: Request) -> None:
        self.asked.append(request)
        if self.answer:
            raise self.answer

    def begin(self, member: str, signature: str = '', *body: Any, **more: Any) -> None:
        fields: dict[str, Any] = {'path': PATH, 'interface': NAME, 'sender': ':1.7', 'serial': 9} | more
        unreadable = fields.pop('unreadable', '')
        message = Message(member=member, signature=signature, body=list(body), **fields)
        sender = message.sender or ''
        frame = Given(b'', 1, message.flags.value, 9, sender, member=member, message=message)
        frame.unreadable = unreadable
        self.wire.receive(frame)

    async def call(self, member: str, signature: str = '', *body: Any, **more: Any) -> Message:
        self.begin(member, signature, *body, **more)
        return await self.reply()

    async def replies(self, count: int) -> None:
        """Return when so many calls are answered."""
        while len(self.wire.sent) < count:
            self.wire.news.clear()
            await self.wire.news.wait()

    async def reply(self) -> Message:
        await self.wire.news.wait()
        self.wire.news.clear()
        (reply,) = self.wire.sent
        self.wire.sent.clear()
        return reply


def run(play: Callable[[Bench], Any]) -> None:
    async def once() -> None:
        bench = Bench()
        await play(bench)
        await bench.server.close()

    asyncio.run(once())


def test_results_are_one_or_several() -> None:
    async def play(bench: Bench) -> None:
        reply = await bench.call('Repeat', 'su', 'ab', 2)
        assert (reply.message_type, reply.signature, reply.body) == (MessageType.METHOD_RETURN, 's', ['abab'])
        assert (reply.destination, reply.reply_serial) == (':1.7', 9)
        # The specification lets a caller leave the interface out.
        reply = await bench.call('Two', interface=None)
        assert (reply.signature, reply.body) == ('su', [':1.7', 2])
        assert serving.caller() == ''
        assert bench.asked == []

    run(play)


@pytest.mark.parametrize(
    ('call', 'error', 'said'),
    [
        (('Repeat', 's', 'x'), 'org.freedesktop.DBus.Error.UnknownMethod', 'arguments of type "s"'),
        (('Nonsense',), 'org.freedesktop.DBus.Error.UnknownMethod', '"Nonsense"'),
        (('Fail', 's', 'core'), 'org.sockaccel1.Error.UnknownTarget', 'a sentence'),
        (('Fail', 's', 'kernel'), 'org.sockaccel1.Error.KernelRefused', 'a sentence'),
    ],
)
def test_errors_have_names_and_sentences(call: tuple[Any, ...], error: str, said: str) -> None:
    async def play(bench: Bench) -> None:
        reply = await bench.call(*call)
        assert (reply.message_type, reply.error_name) == (MessageType.ERROR, error)
        assert said in reply.body[0]

    run(play)


def test_a_defect_is_logged_once_and_hidden() -> None:
    async def play(bench: Bench) -> None:
        with structlog.testing.capture_logs() as lines:
            reply = await bench.call('Fail', 's', 'defect')
        assert reply.error_name == 'org.freedesktop.DBus.Error.Failed'
        assert 'a sentence' not in reply.body[0]
        assert [line['event'] for line in lines] == ['Fail failed unexpectedly']

    run(play)


def test_a_refusal_is_logged_only_for_who_may() -> None:
    async def play(bench: Bench) -> None:
        with structlog.testing.capture_logs() as lines:
            await bench.call('Fail', 's', 'core')
            bench.answer = NotPermitted('no')
            reply = await bench.call('Fail', 's', 'core')
        assert reply.error_name == 'org.sockaccel1.Error.NotPermitted'
        assert [line['event'] for line in lines] == ['Fail was refused: a sentence (asked by user of :1.7)']

    run(play)


def test_polkit_is_asked_for_what_is_declared() -> None:
    async def play(bench: Bench) -> None:
        bench.thing.gate.set()
        await bench.call('Wait', 's', '/x', flags=MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
        size = (NAME, 'Size', Variant('u', 5))
        await bench.call('Set', 'ssv', *size, interface=PROPERTIES)
        assert bench.thing.size == 5
        assert bench.asked == [
            Request(':1.7', 'Wait', 'org.example.change', True, '/x'),
            Request(':1.7', 'Size', 'org.example.resize', False, NAME),
        ]

    run(play)


def test_properties() -> None:
    async def play(bench: Bench) -> None:
        reply = await bench.call('GetAll', 's', NAME, interface=PROPERTIES)
        assert {name: (each.signature, each.value) for name, each in reply.body[0].items()} == {
            'Size': ('u', 1), 'Version': ('s', '1'),
        }  # fmt: skip
        for wrong, error in (
            (('Get', 'ss', NAME, 'Nonsense'), 'UnknownProperty'),
            (('Get', 'ss', 'org.example.Other', 'Size'), 'UnknownInterface'),
            (('Set', 'ssv', NAME, 'Version', Variant('s', '2')), 'PropertyReadOnly'),
            (('Get', 's', NAME), 'UnknownMethod'),
        ):
            reply = await bench.call(*wrong, interface=PROPERTIES)
            assert reply.error_name == f'org.freedesktop.DBus.Error.{error}'
        reply = await bench.call('Set', 'ssv', NAME, 'Size', Variant('s', 'x'), interface=PROPERTIES)
        assert reply.error_name == 'org.sockaccel1.Error.InvalidArgument'
        assert bench.asked == []

    run(play)


def test_a_call_whose_body_is_missing_is_not_made() -> None:
    async def play(bench: Bench) -> None:
        reply = await bench.call('Two', unreadable='the message is too long')
        assert reply.body == ['Two was not called: the message is too long']

    run(play)


def test_a_call_that_wants_no_answer_gets_none() -> None:
    async def play(bench: Bench) -> None:
        bench.begin('Two', flags=MessageFlag.NO_REPLY_EXPECTED)
        assert (await bench.call('Repeat', 'su', 'a', 1)).body == ['a']

    run(play)


def test_a_user_has_a_limited_number_of_calls() -> None:
    """However many clients they are; and whoever else calls has an answer."""

    async def play(bench: Bench) -> None:
        with structlog.testing.capture_logs() as lines:
            for number in range(1026):
                bench.begin('Wait', 's', '', sender=[':1.7', ':1.70'][number % 2])
            assert bench.wire.refused == ['org.sockaccel1.Error.LimitExceeded'] * 2
            refused = bench.wire.sent[0]
            assert refused.body[0] == (
                'uid 1000 has as many calls in progress as a user may have (1024): wait for answers'
            )
        assert [line['log_level'] for line in lines] == ['warning']
        bench.wire.sent.clear()
        bench.wire.news.clear()
        for other in (':1.8', ':1.0'):
            assert (await bench.call('Two', sender=other)).body == [other, 2]
        bench.thing.gate.set()
        await bench.replies(1024)
        bench.wire.sent.clear()
        bench.wire.news.clear()
        assert (await bench.call('Two')).body == [':1.7', 2]

    run(play)


def test_calls_of_all_users_have_a_limit_that_root_does_not_meet() -> None:
    async def play(bench: Bench) -> None:
        with structlog.testing.capture_logs():
            for user in range(2000, 2010):
                USERS[f':2.{user}'] = user
                for _call in range(1024):
                    bench.begin('Wait', 's', '', sender=f':2.{user}')
        assert len(bench.wire.refused) == 10 * 1024 - 8192
        bench.wire.sent.clear()
        bench.wire.news.clear()
        assert (await bench.call('Two', sender=':1.0')).body == [':1.0', 2]

    run(play)


def test_each_client_has_its_turn_and_so_has_the_loop() -> None:
    """Order of events alone: how often the loop went round, and who was answered when."""

    async def play(bench: Bench) -> None:
        for _call in range(500):
            bench.begin('Two', sender=':1.7')
        for sender in (':1.70', ':1.8', ':1.0'):
            bench.begin('Two', sender=sender)
        rounds = 0
        while len(bench.wire.sent) < 503:
            before = len(bench.wire.sent)
            await asyncio.sleep(0)
            rounds += 1
            assert len(bench.wire.sent) - before <= 8
        first = [reply.destination for reply in bench.wire.sent[:8]]
        assert {':1.70', ':1.8', ':1.0'} <= set(first)
        assert rounds >= 503 / 8

    run(play)


@pytest.mark.parametrize('member', ['Two', 'Introspect', 'Nonsense'])
def test_a_reading_call_that_nobody_waits_for_is_not_served(member: str) -> None:
    async def play(bench: Bench) -> None:
        bench.begin(member, flags=MessageFlag.NO_REPLY_EXPECTED, unreadable='was looked at')
        assert bench.server._turns.next() is None
        bench.begin('Wait', 's', '', flags=MessageFlag.NO_REPLY_EXPECTED)
        bench.begin('Set', flags=MessageFlag.NO_REPLY_EXPECTED, interface=PROPERTIES)
        assert bench.server._turns.next() is not None
        assert bench.server._turns.next() is not None

    run(play)


def test_a_client_that_nobody_knows_is_looked_up_first() -> None:
    async def play(bench: Bench) -> None:
        USERS.pop(':1.99', None)
        bench.begin('Repeat', 'su', 'first', 1, sender=':1.99')
        bench.begin('Repeat', 'su', 'second', 1, sender=':1.99')
        await bench.replies(2)
        assert [reply.body for reply in bench.wire.sent] == [['first'], ['second']]
        bench.wire.sent.clear()
        bench.wire.news.clear()
        bench.begin('Two', sender=GONE)
        assert (await bench.call('Two')).body == [':1.7', 2]

    run(play)


def test_what_a_client_that_left_still_wanted_is_forgotten() -> None:
    async def play(bench: Bench) -> None:
        for _call in range(9):
            bench.begin('Two', sender=':1.7')
        bench.begin('Two', sender=':1.70')
        bench.server.sender_gone(':1.7')
        assert (await bench.reply()).destination == ':1.70'
        assert bench.server._turns._calls.of(1000) == 0

    run(play)


def test_nothing_is_served_while_the_bus_takes_no_answers() -> None:
    async def play(bench: Bench) -> None:
        bench.wire.full = True
        bench.begin('Two')
        for _round in range(5):
            await asyncio.sleep(0)
        assert bench.wire.sent == []
        bench.wire.full = False
        assert (await bench.reply()).body == [':1.7', 2]

    run(play)


def test_what_is_being_served_is_answered_at_the_end() -> None:
    async def play(bench: Bench) -> None:
        bench.begin('Wait', 's', '')
        for _round in range(3):
            await asyncio.sleep(0)
        await bench.server.close()
        assert (await bench.reply()).body == ['sockaccel is shutting down']

    run(play)


def test_what_waits_is_answered_at_the_end() -> None:
    async def play(bench: Bench) -> None:
        bench.begin('Two')
        await bench.server.close()
        assert (await bench.reply()).body == ['sockaccel is shutting down']

    run(play)


def test_a_socket_is_handed_over_and_closed() -> None:
    async def play(bench: Bench) -> None:
        reply = await bench.call('Open')
        assert (reply.signature, reply.body, len(reply.unix_fds)) == ('h', [0], 1)
        assert bench.thing.ours
        with bench.thing.ours:
            assert bench.thing.ours.recv(1) == b''

    run(play)


def test_signals() -> None:
    async def play(bench: Bench) -> None:
        bench.thing.emit(Thing.Changed, 'x', {'size': Variant('u', 1)})
        bench.thing.properties_changed('Size')
        changed, properties = bench.wire.sent
        assert (changed.path, changed.interface, changed.member) == (PATH, NAME, 'Changed')
        assert (changed.signature, changed.body[0]) == ('sa{sv}', 'x')
        assert (properties.interface, properties.member) == (PROPERTIES, 'PropertiesChanged')
        assert properties.body[0] == NAME
        assert properties.body[1]['Size'].value == 1

    run(play)


def test_introspection_names_every_argument() -> None:
    async def play(bench: Bench) -> None:
        text = (await bench.call('Introspect', interface='org.freedesktop.DBus.Introspectable')).body[0]
        node = ET.fromstring(text)
        (thing,) = [each for each in node if each.get('name') == NAME]
        found = {each.get('name'): [argument.attrib for argument in each] for each in thing}
        assert found['Repeat'] == [
            {'name': 'text', 'type': 's', 'direction': 'in'},
            {'name': 'times', 'type': 'u', 'direction': 'in'},
            {'name': 'result', 'type': 's', 'direction': 'out'},
        ]
        assert found['Changed'] == [{'name': 'name', 'type': 's'}, {'name': 'row', 'type': 'a{sv}'}]
        assert found['Size'] == []
        assert found['Version'][0]['value'] == 'const'
        root = (await bench.call('Introspect', interface='org.freedesktop.DBus.Introspectable', path='/')).body[0]
        assert [each.get('name') for each in ET.fromstring(root)] == ['org']

    run(play)


def test_a_declaration_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match='unpack'):
        method('s', action=None)
