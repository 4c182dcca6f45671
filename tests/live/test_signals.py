# SPDX-License-Identifier: GPL-2.0-or-later
"""What the bus is told without asking: changes of state, and nothing of counters."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sockaccel.ctl.client import Client
from tests.support.harness import PrivateBus
from tests.support.surface import Surface

pytestmark = pytest.mark.usefixtures('surface')
DBUS = ('org.freedesktop.DBus', '/org/freedesktop/DBus', 'org.freedesktop.DBus')


@pytest.fixture
def surface() -> Iterator[Surface]:
    with PrivateBus(), Surface() as surface:
        yield surface


async def _told(*calls: tuple[Any, ...]) -> list[tuple[str, list[Any]]]:
    """The daemon's signals during some calls: member and body, plain values."""
    told: list[tuple[str, list[Any]]] = []

    def receive(message: Any) -> bool:
        if message.message_type.name == 'SIGNAL' and message.path == '/org/sockaccel1':
            told.append((message.member, message.body))
        return False

    async with Client() as client:
        client._bus.add_message_handler(receive)
        await client.ask(*DBUS, 'AddMatch', 's', ("type='signal',path='/org/sockaccel1'",))
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
    assert enabled[:2] == ['/x', 'active']
    assert disabled == ['/x', 'disabled', '']
    assert appeared[0] == vanished[0] == 'org.sockaccel1.Manager'
    assert (appeared[1]['Targets'].value, vanished[1]['Targets'].value) == (['/x'], [])


def test_what_is_no_change_of_a_target_tells_nobody() -> None:
    assert told(('ResetCounters', 's', ''), ('Reload',), ('ListConnections', 'a{sv}tt', {}, 0, 0)) == []


def test_only_a_target_that_changed_is_told_of() -> None:
    told(('Enable', 's', '/x'))
    signals = told(('Enable', 's', '/y'))
    assert [body[0] for member, body in signals if member == 'TargetChanged'] == ['/y']
