# SPDX-License-Identifier: GPL-2.0-or-later
"""What the bus is told without asking: changes of state, and nothing of counters."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from sockaccel.ctl.client import Client
from sockaccel.dbus.connection import Connection
from sockaccel.dbus.message import Message, plain
from sockaccel.errors import AskFailed
from tests.support.harness import PrivateBus
from tests.support.surface import Surface

pytestmark = pytest.mark.usefixtures('surface')


@pytest.fixture
def surface() -> Iterator[Surface]:
    with PrivateBus(), Surface() as surface:
        yield surface


async def _told(*calls: tuple[Any, ...]) -> list[tuple[str, list[Any]]]:
    """The daemon's signals during some calls: member and body, plain values."""
    told: list[tuple[str, list[Any]]] = []

    def receive(message: Message) -> None:
        if message.path == '/org/sockaccel1':
            told.append((str(message.member), [plain(value) for value in message.body]))

    async with Client() as client:
        await client.connection.hear('org.sockaccel1', receive)
        await client.connection.match("type='signal',path='/org/sockaccel1'")
        for call in calls:
            await client.call(*call)
        # A signal comes before the answer to a later call.
        await client.call('Stats')
    return told


def told(*calls: tuple[Any, ...]) -> list[tuple[str, list[Any]]]:
    return asyncio.run(_told(*calls))


def test_a_change_of_a_target_is_signalled() -> None:
    signals = told(('Enable', 's', '/x'), ('Disable', 's', '/x'))
    assert [member for member, _body in signals] == ['TargetChanged', 'PropertiesChanged'] * 2
    enabled, appeared, disabled, vanished = [body for _member, body in signals]
    assert (enabled[0], enabled[1]['name'], enabled[1]['state']) == ('/x', '/x', 'active')
    assert (disabled[0], disabled[1]['name'], disabled[1]['state']) == ('/x', '/x', 'disabled')
    assert enabled[1].keys() == disabled[1].keys()
    assert appeared[0] == vanished[0] == 'org.sockaccel1.Manager'
    assert (appeared[1]['Targets'], vanished[1]['Targets']) == (['/x'], [])


def test_what_is_no_change_of_a_target_tells_nobody() -> None:
    assert told(('ResetCounters', 's', ''), ('Reload',), ('ListConnections', 'a{sv}tt', {}, 0, 0)) == []


def test_only_a_target_that_changed_is_told_of() -> None:
    told(('Enable', 's', '/x'))
    signals = told(('Enable', 's', '/y'))
    assert [body[0] for member, body in signals if member == 'TargetChanged'] == ['/y']


def test_a_signal_counts_only_from_who_owns_the_name() -> None:
    """Anybody may send the owner's signals; they come to nothing."""

    async def story() -> list[str]:
        heard: list[str] = []
        listener, owner, other = [await Connection.open() for _connection in range(3)]
        await listener.hear('org.example.Systemd', lambda message: heard.append(str(message.body[0])))
        assert await listener.take_name('org.example.Listener')
        assert await owner.take_name('org.example.Systemd')

        async def say(sender: Connection, what: str) -> None:
            signal = Message.new_signal('/x', 'org.example.Manager', 'Reloading', 's', [what])
            signal.destination = 'org.example.Listener'
            sender.send(signal)
            # Comes after the signal, by way of the bus.
            with contextlib.suppress(AskFailed):
                await sender.ask('org.example.Listener', '/x', '', 'Ping')

        await say(other, 'forged')
        await say(owner, 'true')
        assert await owner.has_owner('org.example.Systemd')
        await owner.close()
        assert await other.take_name('org.example.Systemd')
        await say(other, 'of the new owner')
        await listener.close()
        await other.close()
        return heard

    assert asyncio.run(story()) == ['true', 'of the new owner']
