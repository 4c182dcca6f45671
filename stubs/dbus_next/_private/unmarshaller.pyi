# SPDX-License-Identifier: GPL-2.0-or-later
import io
import socket

from dbus_next import Message

class MarshallerStreamEndError(Exception): ...

class Unmarshaller:
    unix_fds: list[int]
    buf: bytearray
    offset: int
    stream: io.BufferedIOBase
    message: Message | None
    def __init__(self, stream: io.BufferedIOBase, sock: socket.socket | None = None) -> None: ...
    def read(self, n: int, prefetch: bool = False) -> int: ...
    def unmarshall(self) -> Message | None: ...
    def _unmarshall(self) -> None: ...
