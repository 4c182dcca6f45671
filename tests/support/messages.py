# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages by the D-Bus specification, byte by byte, with room for what dbus-next would not send."""

import struct

FIELD_PATH, FIELD_INTERFACE, FIELD_MEMBER, FIELD_DESTINATION, FIELD_SIGNATURE = 1, 2, 3, 6, 8


def raw(
    member: str,
    *,
    order: str = '<',
    kind: int = 1,
    flags: int = 0,
    path: str = '/org/sockaccel1',
    destination: str = 'org.sockaccel1',
    interface: str | None = 'org.sockaccel1.Manager',
    extra: bytes = b'',
    signature: str = '',
    body: bytes = b'',
) -> bytes:
    """A message with serial 7. order: of struct; kind: the message type; extra: header fields as they are sent."""
    fields = b''
    texts = [(FIELD_PATH, 'o', path), (FIELD_MEMBER, 's', member)]
    texts += [(FIELD_DESTINATION, 's', destination)]
    texts += [(FIELD_INTERFACE, 's', interface)] if interface else []
    for code, token, text in texts:
        fields += bytes(-len(fields) % 8) + bytes([code, 1]) + token.encode() + b'\0'
        fields += struct.pack(order + 'I', len(text)) + text.encode() + b'\0'
    if signature:
        fields += bytes(-len(fields) % 8) + bytes([FIELD_SIGNATURE, 1]) + b'g\0' + bytes([len(signature)])
        fields += signature.encode() + b'\0'
    if extra:
        fields += bytes(-len(fields) % 8) + extra
    head = bytes([ord('l' if order == '<' else 'B'), kind, flags, 1])
    head += struct.pack(order + 'III', len(body), 7, len(fields)) + fields
    return head + bytes(-len(head) % 8) + body
