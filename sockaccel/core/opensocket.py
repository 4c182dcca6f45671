# SPDX-License-Identifier: GPL-2.0-or-later
"""An open socket as an audit sees it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """One end of a connection, or a listener, of which nothing but address, port and namespace counts.

    flow, peer_flow: the connection as this end and as the other one sees it, packed; to be compared with others.
    sent, received: bytes since the connection was made; segments are those with data. reason: index of the counter
    that says why this end stays with TCP, 0 for none.

    user: the owner of the socket. peer_address: as `pack_address` has it. local: the other end is on this host.
    blocks: its file has no O_NONBLOCK. joined: it is accelerated now. urgent: it has received
    urgent data (MSG_OOB).
    """

    flow: bytes
    peer_flow: bytes
    netns: int
    port: int
    peer_port: int
    cookie: int
    sent: int
    received: int
    sent_segments: int
    received_segments: int
    pid: int
    program: str
    user: int = 0
    peer_address: bytes = b''
    reason: int = 0
    listens: bool = False
    local: bool = True
    blocks: bool = False
    joined: bool = False
    urgent: bool = False
