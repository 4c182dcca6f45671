# SPDX-License-Identifier: GPL-2.0-or-later
"""Where connections that are led to proxies wanted to go, packed as the kernel side reads it."""

import struct
from collections.abc import Callable, Container, Iterator

from sockaccel.core.connection import unpack_address

# struct led: the cookie of the connecting socket, that of its network namespace, address and port.
LED = struct.Struct('=QQ16sI4x')
# An address and a port.
Origin = tuple[str, int]
# Gives them part by part, each of whole records. Raises OSError.
Origins = Callable[[], Iterator[bytes]]


def unpack(part: bytes, wanted: Container[int] | None = None) -> dict[int, Origin]:
    """By the cookie of the connecting socket. wanted: only those."""
    return {
        cookie: (unpack_address(address), port)
        for cookie, _netns, address, port in LED.iter_unpack(part)
        if wanted is None or cookie in wanted
    }


def restricted(part: bytes, netns: int) -> bytes:
    """Those of one network namespace, by cookie."""
    return b''.join(LED.pack(*row) for row in LED.iter_unpack(part) if row[1] == netns)
