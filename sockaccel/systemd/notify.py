# SPDX-License-Identifier: GPL-2.0-or-later
"""Tells systemd how the daemon is (sd_notify(3)), where $NOTIFY_SOCKET is set."""

import asyncio
import contextlib
import os
import time

import sdnotify

from sockaccel.systemd.fdstore import SystemdStore


class Notifier:
    """sdnotify with debug=True raises errors instead of hiding them, and so needs $NOTIFY_SOCKET."""

    def __init__(self) -> None:
        self._systemd = sdnotify.SystemdNotifier(debug=True) if os.environ.get('NOTIFY_SOCKET') else None
        if self._systemd:
            # A manager that does not read must not stop the event loop.
            self._systemd.socket.setblocking(False)
        self._watchdog: asyncio.TimerHandle | None = None

    @property
    def store(self) -> SystemdStore | None:
        """Where fds outlive this process; None without systemd."""
        return SystemdStore(self._systemd.socket) if self._systemd else None

    def ready(self, status: str) -> None:
        self._tell(f'READY=1\nSTATUS={_line(status)}')
        self._feed_watchdog()

    def reloading(self) -> None:
        """With the time, by which systemd tells this reload from an earlier one (sd_notify(3))."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell(f'RELOADING=1\nMONOTONIC_USEC={microseconds}')

    def reloaded(self, status: str) -> None:
        self._tell(f'READY=1\nSTATUS={_line(status)}')

    def status(self, status: str) -> None:
        self._tell(f'STATUS={_line(status)}')

    def failed(self, reason: str) -> None:
        self._tell(f'STATUS={_line(reason)}')

    def stopping(self, status: str) -> None:
        self._tell(f'STOPPING=1\nSTATUS={_line(status)}')
        if self._watchdog:
            self._watchdog.cancel()

    def _tell(self, state: str) -> None:
        if self._systemd:
            with contextlib.suppress(BlockingIOError):
                self._systemd.notify(state)

    def _feed_watchdog(self) -> None:
        """At half of $WATCHDOG_USEC, from the event loop: systemd kills a daemon whose loop hangs."""
        microseconds = os.environ.get('WATCHDOG_USEC')
        if (
            not self._systemd
            or not microseconds
            or os.environ.get('WATCHDOG_PID', str(os.getpid())) != str(os.getpid())
        ):
            return
        self._tell('WATCHDOG=1')
        delay = int(microseconds) / 2_000_000
        self._watchdog = asyncio.get_running_loop().call_later(delay, self._feed_watchdog)


def _line(text: str) -> str:
    """As one line of ASCII: sdnotify sends latin-1 (its _b()), line breaks and NUL end an assignment."""
    return ''.join(letter if letter.isprintable() else ' ' for letter in text).encode('ascii', 'replace').decode()
