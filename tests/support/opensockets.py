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
    return OpenSocket(0, 0, NETNS, port, 0, 0, 0, 0, 0, 0, 1, 'server', listens=True)


def client(
    number: int = 0, *, port: int = PORT, to_server: int = 0, to_client: int = 0, **values: Any
) -> OpenSocket:
    """The end that connects. to_server, to_client: bytes, in segments of 100."""
    numbers = {'sent_number': 1000 * number + 1, 'received_number': 1000 * number + 500, 'cookie': 2 * number + 1}
    carried = {'sent': to_server, 'received': to_client, 'port': 40000 + number, 'peer_port': port}
    return _end({**numbers, **carried, 'program': 'client', **values})


def server(
    number: int = 0, *, port: int = PORT, to_server: int = 0, to_client: int = 0, **values: Any
) -> OpenSocket:
    """The other end of the same connection."""
    numbers = {'sent_number': 1000 * number + 500, 'received_number': 1000 * number + 2, 'cookie': 2 * number + 2}
    carried = {'sent': to_client, 'received': to_server, 'port': port, 'peer_port': 40000 + number}
    return _end({**numbers, **carried, 'program': 'server', **values})


def _end(values: dict[str, Any]) -> OpenSocket:
    segments = {'sent_segments': values['sent'] // 100, 'received_segments': values['received'] // 100}
    return OpenSocket(**{'netns': NETNS, 'pid': 7, **segments, **values})
