# SPDX-License-Identifier: GPL-2.0-or-later
"""What polkit says about reading is asked seldom, and believed no longer than it holds."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from sockaccel.bus.polkit import Authority
from sockaccel.dbus.connection import Connection
from sockaccel.dbus.message import Message
from sockaccel.errors import AskFailed

POLKIT = 'org.freedesktop.PolicyKit1'


class Bus(Connection):
    """A bus with a polkit that says `answer`, None for nothing at all."""

    def __init__(self) -> None:
        self.answer: bool | None = True
        self.there = True
        self.asked: list[str] = []
        self.changed: Callable[[Message], None] = lambda _message: None

    async def user_of(self, sender: str) -> int:
        return 0 if sender == ':1.0' else 1000

    async def available(self, name: str) -> bool:
        return self.there and name == POLKIT

    async def hear(self, name: str, receive: Callable[[Message], None]) -> None:
        assert name == POLKIT
        self.changed = receive

    async def match(self, _rule: str) -> None:
        return

    def tell(self, *_message: Any) -> None:
        return

    async def ask(
        self, destination: str, path: str, interface: str, member: str, signature: str = '',
        body: Iterable[Any] = (), **_more: Any,
    ) -> list[Any]:  # fmt: skip
        subject, action, _details, flags, _cancellation = body
        assert (action, flags) == ('org.sockaccel1.inspect', 0)
        self.asked.append(subject[1]['name'].value)
        await asyncio.sleep(0)
        if self.answer is None:
            raise AskFailed('no answer')
        return [[self.answer, False, {}]]


def run(play: Callable[[Bus, Authority], Awaitable[None]]) -> None:
    async def once() -> None:
        bus = Bus()
        authority = Authority(bus)
        await authority.watch()
        await play(bus, authority)

    asyncio.run(once())


def test_root_is_not_asked_about() -> None:
    async def play(bus: Bus, authority: Authority) -> None:
        bus.answer = None
        assert await authority.may_inspect(':1.0')
        assert bus.asked == []

    run(play)


def test_a_poll_is_one_question() -> None:
    async def play(bus: Bus, authority: Authority) -> None:
        answers = await asyncio.gather(*(authority.may_inspect(':1.7') for _again in range(100)))
        assert answers == [True] * 100
        assert bus.asked == [':1.7']
        await authority.may_inspect(':1.8')
        assert bus.asked == [':1.7', ':1.8']

    run(play)


def test_what_changed_is_asked_anew() -> None:
    async def play(bus: Bus, authority: Authority) -> None:
        assert await authority.may_inspect(':1.7')
        bus.answer = False
        assert await authority.may_inspect(':1.7')
        bus.changed(Message.new_signal('/x', f'{POLKIT}.Authority', 'Changed'))
        assert not await authority.may_inspect(':1.7')
        bus.answer = True
        authority.forget(':1.7')
        assert await authority.may_inspect(':1.7')
        authority.forget(POLKIT)
        bus.there = False
        assert not await authority.may_inspect(':1.7')

    run(play)


def test_no_answer_is_no() -> None:
    async def play(bus: Bus, authority: Authority) -> None:
        bus.answer = None
        assert not await authority.may_inspect(':1.7')

    run(play)
