# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes messages. dbus-next itself takes a full socket for the end of the connection."""

import socket
from collections.abc import Iterable
from typing import Any


class PatientSocket:
    """The bus's socket as dbus-next's writer sees it: a full one takes nothing, and is tried again when it can."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, data: memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def sendmsg(self, buffers: Iterable[memoryview], ancillary: Iterable[Any]) -> int:
        try:
            return self._sock.sendmsg(buffers, ancillary)
        except BlockingIOError:
            return 0
