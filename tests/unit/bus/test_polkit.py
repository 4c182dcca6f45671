# SPDX-License-Identifier: GPL-2.0-or-later
"""What polkit is asked, and shows in its dialogue."""

import asyncio
from typing import Any

import pytest

from sockaccel.bus import polkit
from sockaccel.dbus.connection import Connection
from sockaccel.dbus.serving import Request
from sockaccel.errors import InvalidTarget


class Asked(Connection):
    """A connection of an ordinary user to a bus with a polkit that says yes."""

    def __init__(self) -> None:
        self.details: list[dict[str, str]] = []

    async def user_of(self, sender: str) -> int:
        return 1000

    async def available(self, name: str) -> bool:
        return True

    async def ask(self, *arguments: Any, **_options: Any) -> list[Any]:
        self.details.append(arguments[5][2])
        return [(True, False, {})]


def details(action: str, subject: str) -> dict[str, str]:
    connection = Asked()
    request = Request(':1.7', 'Member', action, True, subject)
    try:
        asyncio.run(polkit.Authority(connection).authorise(connection, request))
    except InvalidTarget:
        assert connection.details == []
        raise
    (found,) = connection.details
    return found


@pytest.mark.parametrize('action', [polkit.ENABLE, polkit.DISABLE])
def test_the_dialogue_shows_a_target_as_it_is_understood(action: str) -> None:
    assert details(action, 'x.service') == {'target': 'x.service'}
    assert details(action, '//system.slice///x/') == {'target': '/system.slice/x'}
    assert details(action, f'/{"x" * 255}/{"y" * 255}') == {'target': f'/{"x" * 255}…'}


@pytest.mark.parametrize('subject', ['x.service" and become root', 'nonsense', '', '/a\nb', '/../x'])
def test_nobody_is_asked_about_what_is_no_target(subject: str) -> None:
    with pytest.raises(InvalidTarget):
        details(polkit.ENABLE, subject)


@pytest.mark.parametrize('action', [polkit.RELOAD, polkit.RESET_COUNTERS, polkit.SET_LOG_LEVEL])
def test_the_other_questions_show_nothing_of_the_caller(action: str) -> None:
    assert details(action, 'org.freedesktop.LogControl1') == {}
