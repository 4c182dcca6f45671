# SPDX-License-Identifier: GPL-2.0-or-later
"""What an audit saw: connections put together from several looks at the open sockets of a target."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from sockaccel.core.opensocket import OpenSocket

# Of one audit. It keeps 2 KB of each.
MAXIMUM_CONNECTIONS = 2048
# How many sequence numbers there are.
_ALL = 1 << 32
# A direction with one segment for so many of the other one still answers: a response has several.
_ANSWERS = 8

Numbers = tuple[int, int]


class Traffic(Enum):
    """How the two ends of a connection talk."""

    IDLE = 'idle'
    REQUESTS = 'requests'
    STREAM = 'stream'


@dataclass
class Direction:
    """What went one way. segments: those with data, each a message or a part of one."""

    bytes: int = 0
    segments: int = 0

    @property
    def size(self) -> int:
        """Bytes of a segment, on the average."""
        return self.bytes // self.segments if self.segments else 0

    def since(self, before: 'Direction') -> 'Direction':
        return Direction(max(0, self.bytes - before.bytes), max(0, self.segments - before.segments))

    def add(self, other: 'Direction') -> None:
        self.bytes += other.bytes
        self.segments += other.segments


def traffic(to_server: Direction, to_client: Direction) -> Traffic:
    """What two directions have in common."""
    fewer, more = sorted((to_server.segments, to_client.segments))
    if not more:
        return Traffic.IDLE
    return Traffic.REQUESTS if fewer * _ANSWERS >= more else Traffic.STREAM


@dataclass
class Observed:
    """A connection.

    client, server: its ends as they were seen last; None for one that is not on this host, or that no program has
    open. before: what both directions had carried when the audit began.
    """

    client: OpenSocket | None
    server: OpenSocket | None
    before: tuple[Direction, Direction] = field(default_factory=lambda: (Direction(), Direction()))

    @property
    def ends(self) -> list[OpenSocket]:
        return [end for end in (self.client, self.server) if end]

    @property
    def local(self) -> bool:
        return len(self.ends) == 2 or any(end.local for end in self.ends)

    def carried(self) -> tuple[Direction, Direction]:
        """To the server and to the client, since the connection was made."""
        client, server = self.client, self.server
        if client:
            back = _sent(server) if server else Direction(client.received, client.received_segments)
            return _sent(client), back
        assert server
        return Direction(server.received, server.received_segments), _sent(server)

    def during(self) -> tuple[Direction, Direction]:
        """To the server and to the client, since the audit began."""
        to_server, to_client = self.carried()
        return to_server.since(self.before[0]), to_client.since(self.before[1])


def _sent(end: OpenSocket) -> Direction:
    return Direction(end.sent, end.sent_segments)


class Watch:
    """left_out: how many connections one look has met, at most, beyond those that an audit looks at."""

    def __init__(self) -> None:
        self.left_out = 0
        self._began = False
        # By the cookie of each end.
        self._found: dict[int, Observed] = {}

    @property
    def connections(self) -> list[Observed]:
        return list({id(each): each for each in self._found.values()}.values())

    def add(self, sockets: Iterable[OpenSocket]) -> None:
        """Take what one look has found, in its order."""
        ends: dict[Numbers, OpenSocket] = {}
        listeners: set[tuple[int, int]] = set()
        # One end of each connection.
        left_out: set[Numbers] = set()
        for each in sockets:
            if each.listens:
                listeners.add((each.netns, each.port))
            elif len(ends) < 2 * MAXIMUM_CONNECTIONS or ends.keys() & _peers(each):
                ends.setdefault(_numbers(each), each)
            elif not left_out & set(_peers(each)):
                left_out.add(_numbers(each))
        for end in ends.values():
            client, server = map(ends.get, _peers(end))
            if not self._put(end, client, server, listeners) and not left_out & set(_peers(end)):
                left_out.add(_numbers(end))
        self.left_out = max(self.left_out, len(left_out))
        self._began = True

    def _put(
        self,
        end: OpenSocket,
        client: OpenSocket | None,
        server: OpenSocket | None,
        listeners: set[tuple[int, int]],
    ) -> bool:
        """client, server: the other end, if it is that. Returns whether there was a place for it."""
        peer = client or server
        known = self._found.get(end.cookie) or (self._found.get(peer.cookie) if peer else None)
        if known is None:
            # By two ends each, most often.
            if len(self._found) >= 2 * MAXIMUM_CONNECTIONS:
                return False
            is_server = bool(client) if peer else _is_server(end, listeners)
            known = Observed(peer, end) if is_server else Observed(end, peer)
            # Those that are made later have carried everything during the audit.
            if not self._began:
                known.before = known.carried()
        elif known.server and known.server.cookie == end.cookie:
            known.server, known.client = end, peer or known.client
        else:
            known.client, known.server = end, peer or known.server
        for each in (end, peer):
            if each:
                self._found[each.cookie] = known
        return True


def _numbers(end: OpenSocket) -> Numbers:
    return end.sent_number, end.received_number


def _peers(end: OpenSocket) -> tuple[Numbers, Numbers]:
    """What the other end's numbers are if that is the client, and if it is the server."""
    sent, received = end.sent_number, end.received_number
    return ((received - 1) % _ALL, sent), (received, (sent + 1) % _ALL)


def _is_server(end: OpenSocket, listeners: set[tuple[int, int]]) -> bool:
    """Whether an end has accepted its connection: somebody listens on its port, and not on the other end's."""
    here, there = (end.netns, end.port) in listeners, (end.netns, end.peer_port) in listeners
    return here if here != there else end.port < end.peer_port
