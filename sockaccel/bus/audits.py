# SPDX-License-Identifier: GPL-2.0-or-later
"""Audits that clients wait for: each ends when its client leaves the bus."""

import asyncio
from collections.abc import Awaitable, Callable

from sockaccel.bus import encoding
from sockaccel.bus.encoding import Row
from sockaccel.core.audit import Report, Terms
from sockaccel.dbus.connection import Connection
from sockaccel.dbus.limits import Limit
from sockaccel.dbus.serving import caller


class Audits:
    """Those that are running."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # By the task that serves the call, its client.
        self._clients: dict[asyncio.Task[object], str] = {}
        # uid 0 finds room as long as the core has some: others leave half of it.
        self._limit = Limit('audits', 'wait for the end of one', each=1, privileged=4, together=2)

    async def run(self, audit: Callable[[], Awaitable[tuple[Report, Terms]]]) -> Row:
        """The report for the client whose call is being served. Raises LimitExceeded, and what `audit` raises."""
        task = asyncio.current_task()
        assert task
        user = await self._connection.user_of(caller())
        self._limit.take(user)
        self._clients[task] = caller()
        try:
            return encoding.report(*await audit())
        finally:
            del self._clients[task]
            self._limit.give_back(user)

    def sender_gone(self, name: str) -> None:
        """A client has left the bus: nobody waits for its report."""
        for task, client in list(self._clients.items()):
            if client == name:
                task.cancel()
