# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes messages. dbus-next itself takes a full socket for the end of the connection."""

import socket
import struct
from collections.abc import Iterable
from typing import Any

from sockaccel.dbus.dbusnext import LITTLE_ENDIAN, MessageType

_PROTOCOL = 1
# Header fields of the D-Bus specification.
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8


class PatientSocket:
    """The bus's socket as dbus-next's writer sees it: a full one takes nothing, and is tried again when it can."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # Descriptors go with the first byte that the socket takes.
        self._ancillary: list[Any] = []

    def send(self, data: memoryview) -> int:
        try:
            sent = self._sock.sendmsg([data], self._ancillary)
        except BlockingIOError:
            return 0
        self._ancillary = []
        return sent

    def sendmsg(self, buffers: Iterable[memoryview], ancillary: Iterable[Any]) -> int:
        (data,) = buffers
        self._ancillary = list(ancillary)
        return self.send(data)


def error(serial: int, destination: str, reply_serial: int, name: str, text: str) -> bytes:
    """The message of an error. dbus-next takes ten times as long, and a flood of calls is answered by these."""
    fields = (
        _field(_REPLY_SERIAL, b'u', struct.pack('<I', reply_serial)),
        _field(_DESTINATION, b's', _text(destination)),
        _field(_ERROR_NAME, b's', _text(name)),
    )
    return _message(MessageType.ERROR, serial, fields, text)


def call(serial: int, destination: str, path: str, interface: str, member: str, argument: str) -> bytes:
    """The message of a call with one text. A client that comes back again and again causes one each time."""
    fields = (
        _field(_PATH, b'o', _text(path)),
        _field(_INTERFACE, b's', _text(interface)),
        _field(_MEMBER, b's', _text(member)),
        _field(_DESTINATION, b's', _text(destination)),
    )
    return _message(MessageType.METHOD_CALL, serial, fields, argument)


def _message(kind: MessageType, serial: int, fields: Iterable[bytes], text: str) -> bytes:
    """One whose body is one text."""
    body, header = _text(text), b''.join(fields) + bytes((_SIGNATURE, 1)) + b'g\0\1s\0'
    start = struct.pack('<BBBBIII', LITTLE_ENDIAN, kind.value, 0, _PROTOCOL, len(body), serial, len(header))
    return start + _padded(header) + body


def _field(code: int, token: bytes, value: bytes) -> bytes:
    """One that another follows."""
    return _padded(bytes((code, 1)) + token + b'\0' + value)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack('<I', len(data)) + data + b'\0'


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)
