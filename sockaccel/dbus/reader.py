# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a message. dbus-next itself ends the connection at the first one that it cannot read."""

import io

import structlog

from sockaccel.dbus.dbusnext import Message, MessageType, SignatureTree, Unmarshaller

log = structlog.stdlib.get_logger()

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


def read_message(raw: bytes) -> tuple[Message, str]:
    """A whole message, and why its body is missing, '' if it is not.

    One whose body cannot be read is returned without it; one whose header cannot be read is returned as an answer
    that nobody waits for.
    """
    try:
        return _unmarshal(raw), ''
    except Exception as exc:  # noqa: BLE001  dbus-next raises nearly anything for what it cannot read.
        why = f'the message cannot be read ({type(exc).__name__})'
    try:
        return _unmarshal(raw[:4] + bytes(4) + raw[8:]), why
    except Exception:  # noqa: BLE001
        log.warning('A D-Bus message has a header that cannot be read, ignoring')
        return Message(message_type=MessageType.METHOD_RETURN, reply_serial=_NOBODYS_SERIAL), why


def _unmarshal(raw: bytes) -> Message:
    # An empty stream: a length inside the message that is wrong must not read beyond it.
    reader = Unmarshaller(io.BytesIO())
    reader.buf = bytearray(raw)
    reader._unmarshall()
    assert reader.message
    return reader.message
