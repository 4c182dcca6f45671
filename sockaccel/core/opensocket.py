# SPDX-License-Identifier: GPL-2.0-or-later
"""An open socket as an audit sees it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """One end of a connection, or a listener, of which nothing but address, port and namespace counts.

    sent_number, received_number: of the first bytes of both directions, as `struct pair_key` has them of an
    accepting end; a connecting one has sent a byte less. alone: the socket is connected to itself.
    sent, received: bytes since the connection was made; segments are those with data. reason: index of the counter
    that says why this end stays with TCP, 0 for none.

    user: the owner of the socket. peer_address: as `pack_address` has it. local: the other end is on this host.
    blocks: its file has no O_NONBLOCK. joined: it is accelerated now. urgent: it has received
    urgent data (MSG_OOB). splices, asks_fionread: its process does so with some socket of TCP, as far as
    watchers have seen it since the audit began.
    """

    sent_number: int
    received_number: int
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
    alone: bool = False
    local: bool = True
    blocks: bool = False
    joined: bool = False
    urgent: bool = False
    splices: bool = False
    asks_fionread: bool = False
