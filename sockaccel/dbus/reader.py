# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads messages. dbus-next itself ends the connection at the first one that it cannot read."""

import io
import struct

import structlog

from sockaccel.dbus.library import (
    LITTLE_ENDIAN,
    MarshallerStreamEndError,
    Message,
    MessageType,
    SignatureTree,
    Unmarshaller,
)

log = structlog.stdlib.get_logger()

# dbus-next reads about a megabyte a second, in the event loop. No call of ours needs a longer body.
_MAXIMUM_BODY = 65536
_MAXIMUM_SIGNATURES = 1024
# No call of ours ever has it, so that nobody waits for the answer that has it.
_NOBODYS_SERIAL = 0xFFFFFFFF


class SignatureCache(dict[str, SignatureTree]):
    """dbus-next keeps every signature that it has met, and a client can send new ones without end."""

    def __setitem__(self, signature: str, tree: SignatureTree) -> None:
        if len(self) >= _MAXIMUM_SIGNATURES:
            self.clear()
        super().__setitem__(signature, tree)


SignatureTree._cache = SignatureCache(SignatureTree._cache)


class Reader(Unmarshaller):
    """Reads one message from the connection's stream.

    A message whose body cannot be read, or a call whose body is longer than 64 KiB, is returned without its body;
    `unreadable` then says why. One whose header cannot be read is returned as an answer that nobody waits for.
    """

    unreadable = ''

    def unmarshall(self) -> Message | None:
        """The message, or None while a part of it has not come yet. Raises EOFError at the stream's end."""
        self.unreadable = ''
        try:
            # On success and on MarshallerStreamEndError the offset is 0 again: all that came is read once more.
            self.offset = 0
            self.read(16, prefetch=True)
            order = '<' if self.buf[0] == LITTLE_ENDIAN else '>'
            kind, body, header = self.buf[1], *struct.unpack_from(order + 'I4xI', self.buf, 4)
            self.read(16 + header + -header % 8 + body, prefetch=True)
        except MarshallerStreamEndError:
            return None
        # A length inside the message that is wrong must not read from the next message.
        self.stream = io.BytesIO()
        if kind == MessageType.METHOD_CALL.value and body > _MAXIMUM_BODY:
            return self._without_body('the message is too long')
        try:
            self._unmarshall()
        except Exception as exc:  # noqa: BLE001  dbus-next raises nearly anything for what it cannot read.
            return self._without_body(f'the message cannot be read ({type(exc).__name__})')
        return self.message

    def _without_body(self, why: str) -> Message | None:
        self.buf[4:8] = bytes(4)
        try:
            self._unmarshall()
        except Exception:  # noqa: BLE001
            log.warning('A D-Bus message has a header that cannot be read, ignoring')
            self.message = Message(message_type=MessageType.METHOD_RETURN, reply_serial=_NOBODYS_SERIAL)
        self.unreadable = why
        return self.message
