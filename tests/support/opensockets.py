# SPDX-License-Identifier: GPL-2.0-or-later
"""What an audit sees, made up."""

from typing import Any

from sockaccel.core.opensocket import OpenSocket
from tests.support.memory_kernel import NAMES

NETNS, PORT = 1, 5432


def reason(name: str) -> int:
    """The index of a counter."""
    return NAMES.index(name)


def listener(port: int = PORT) -> OpenSocket:
    return OpenSocket(b'', b'', NETNS, port, 0, 0, 0, 0, 0, 0, 1, 'server', listens=True)


def client(
    number: int = 0, *, port: int = PORT, to_server: int = 0, to_client: int = 0, **values: Any
) -> OpenSocket:
    """The end that connects. to_server, to_client: bytes, in segments of 100."""
    return _end(number, 40000 + number, port, to_server, to_client, {'program': 'client', **values})


def server(
    number: int = 0, *, port: int = PORT, to_server: int = 0, to_client: int = 0, **values: Any
) -> OpenSocket:
    """The other end of the same connection."""
    return _end(number, port, 40000 + number, to_client, to_server, {'program': 'server', **values})


def _end(number: int, port: int, peer_port: int, sent: int, received: int, values: dict[str, Any]) -> OpenSocket:
    made: dict[str, Any] = {
        'flow': b'%d %d' % (port, peer_port), 'peer_flow': b'%d %d' % (peer_port, port), 'netns': NETNS,
        'port': port, 'peer_port': peer_port, 'cookie': 2 * number + (port > peer_port), 'sent': sent,
        'received': received, 'sent_segments': sent // 100, 'received_segments': received // 100, 'pid': 7,
    }  # fmt: skip
    return OpenSocket(**{**made, **values})
