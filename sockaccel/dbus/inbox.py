# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes messages from the bus's socket as they come, and reads no more of each than who sent it and what it is.

To read a message whole takes dbus-next a third of a millisecond, which is more than it takes to send one. So what
is not wanted is thrown away unread.
"""

import array
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog

from sockaccel.dbus.dbusnext import LITTLE_ENDIAN, Message, MessageFlag, MessageType
from sockaccel.dbus.reader import read_message

log = structlog.stdlib.get_logger()

# No call of ours needs a longer body, or header: dbus-next reads about a megabyte a second, in the event loop.
_MAXIMUM_BODY = _MAXIMUM_HEADER = 65536
# Of one turn: some 400 short messages.
_READ = 65536
# Who finds so much at once is slower than the bus. The socket's buffer has room for some 200 short messages.
_MANY = 8192
# SCM_MAX_FD of the kernel: one message carries no more.
_MAXIMUM_FDS = 253
# Headers that are kept, and bytes of each.
_MAXIMUM_SCANNED = 1024
# Header fields of the D-Bus specification.
_PATH, _INTERFACE, _MEMBER, _SENDER, _UNIX_FDS = 1, 2, 3, 7, 9
_CALL = MessageType.METHOD_CALL.value
_NO_REPLY = MessageFlag.NO_REPLY_EXPECTED.value


@dataclass(slots=True)
class Frame:
    """A message as it came. raw: without its body if that is too long. fds: its descriptors, for who takes them.

    sender: as the bus wrote it. The texts are '' where the message has none.
    """

    raw: bytes
    kind: int
    flags: int
    serial: int
    sender: str = ''
    path: str = ''
    interface: str = ''
    member: str = ''
    too_long: bool = False
    fds: list[int] = field(default_factory=list)

    @property
    def wants_reply(self) -> bool:
        return not self.flags & _NO_REPLY

    def read(self) -> tuple[Message, str]:
        """The message, and why its body is missing, '' if it is not."""
        message, unreadable = read_message(self.raw)
        message.unix_fds = self.fds
        return message, 'the message is too long' if self.too_long else unreadable

    def first_text(self) -> str:
        """The first value of the body, which must be a text; '' if there is no body."""
        order = '<' if self.raw[0] == LITTLE_ENDIAN else '>'
        (header,) = struct.unpack_from(order + 'I', self.raw, 12)
        start = 16 + header + -header % 8
        if len(self.raw) < start + 4:
            return ''
        (size,) = struct.unpack_from(order + 'I', self.raw, start)
        return self.raw[start + 4 : start + 4 + size].decode(errors='replace')

    def close_fds(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []


class Inbox:
    """The messages of a socket. takes_fds: whether descriptors are wanted; otherwise the kernel closes them."""

    def __init__(self, sock: socket.socket, *, takes_fds: bool) -> None:
        self._sock = sock
        self._takes_fds = takes_fds
        self._buffer = bytearray()
        self._fds: deque[int] = deque()
        # What headers say, by their bytes. Those of a client are nearly all the same.
        self._scanned: dict[bytes, _Fields] = {}
        # Whether more may have come than was read.
        self.behind = False
        # So many bytes more belong to a message that is not wanted.
        self._to_skip = 0

    def receive(self) -> list[Frame]:
        """Read once from the socket; the messages that are complete now. Raises EOFError, OSError."""
        try:
            data = self._read()
        except BlockingIOError:
            self.behind = False
            return []
        if not data:
            raise EOFError
        self.behind = len(data) > _MANY
        skipped = min(self._to_skip, len(data))
        self._to_skip -= skipped
        self._buffer += data[skipped:]
        frames: list[Frame] = []
        start = 0
        while (end := self._end_of_next(start, frames)) is not None:
            start = end
        del self._buffer[:start]
        return frames

    def close(self) -> None:
        """Close the descriptors that belong to messages which never came whole."""
        while self._fds:
            os.close(self._fds.popleft())

    def _read(self) -> bytes:
        if not self._takes_fds:
            # Without room for descriptors the kernel drops those that are sent.
            return self._sock.recv(_READ)
        fds = array.array('i')
        room = socket.CMSG_SPACE(_MAXIMUM_FDS * fds.itemsize)
        data, ancillary, _flags, _address = self._sock.recvmsg(_READ, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        self._fds.extend(fds)
        return data

    def _end_of_next(self, start: int, frames: list[Frame]) -> int | None:
        """Take the message that starts there; where it ends in the buffer. None while a part has not come yet."""
        buffer = self._buffer
        if len(buffer) - start < 16:
            return None
        order = '<' if buffer[start] == LITTLE_ENDIAN else '>'
        body, serial, header = struct.unpack_from(order + 'III', buffer, start + 4)
        head = 16 + header + -header % 8
        if head > _MAXIMUM_HEADER:
            log.warning('A D-Bus message has a header that is too long, ignoring')
            return self._skip(start, head + body)
        too_long = buffer[start + 1] == _CALL and body > _MAXIMUM_BODY
        end = start + head + (0 if too_long else body)
        if len(buffer) < end:
            return None
        with memoryview(buffer) as view:
            raw = bytes(view[start:end])
        if too_long:
            raw = raw[:4] + bytes(4) + raw[8:]
        frames.append(self._frame(raw, order, serial, 16 + header, too_long=too_long))
        return self._skip(end, body) if too_long else end

    def _skip(self, start: int, size: int) -> int:
        """Throw so many bytes away, of which not all need have come; where the rest of the buffer starts."""
        there = min(size, len(self._buffer) - start)
        self._to_skip = size - there
        return start + there

    def _frame(self, raw: bytes, order: str, serial: int, end: int, *, too_long: bool) -> Frame:
        fields = raw[:1] + raw[16:end]
        found = self._scanned.get(fields)
        if found is None:
            found = _scan(raw, order, end)
            if len(self._scanned) >= _MAXIMUM_SCANNED:
                self._scanned.clear()
            if len(fields) <= _MAXIMUM_SCANNED:
                self._scanned[fields] = found
        frame = Frame(raw, raw[1], raw[2], serial, *found.texts, too_long)
        if found.fds and self._fds:
            frame.fds = [self._fds.popleft() for _fd in range(min(found.fds, len(self._fds)))]
        return frame


@dataclass(slots=True)
class _Fields:
    """texts: sender, path, interface, member. fds: how many descriptors the message says that it has."""

    texts: tuple[str, str, str, str]
    fds: int


class _OddField(Exception):
    """A header field of a type that no field of the specification has."""


def _scan(raw: bytes, order: str, end: int) -> _Fields:
    """What the header says, which ends there."""
    texts = dict.fromkeys((_SENDER, _PATH, _INTERFACE, _MEMBER), '')
    fds = 0
    try:
        for code, value in _fields(raw, order, end):
            if code in texts:
                texts[code] = str(value)
            elif code == _UNIX_FDS:
                fds = int(value)
    except (IndexError, ValueError, struct.error, _OddField):
        # The bus checks headers, but lets through fields that this does not know.
        message, _unreadable = read_message(raw)
        return _Fields(
            (message.sender or '', message.path or '', message.interface or '', message.member or ''), fds
        )
    return _Fields((texts[_SENDER], texts[_PATH], texts[_INTERFACE], texts[_MEMBER]), fds)


def _fields(raw: bytes, order: str, end: int) -> Iterator[tuple[int, str | int]]:
    """Code and value of each field: an array of structs, aligned to 8, of the code and a variant."""
    at = 16
    while at < end:
        code, length, token = raw[at], raw[at + 1], chr(raw[at + 2])
        if length != 1:
            raise _OddField
        if token == 'g':
            at += 4 + 1 + raw[at + 4] + 1
        elif token in 'so':
            (size,) = struct.unpack_from(order + 'I', raw, at + 4)
            start = at + 8
            at = start + size + 1
            yield code, raw[start : start + size].decode()
        elif token == 'u':
            yield code, struct.unpack_from(order + 'I', raw, at + 4)[0]
            at += 8
        else:
            raise _OddField
        at += -at % 8
