# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that wait to be served: each user has a turn after all others, and so has each client of a user."""

from collections import OrderedDict, deque

from sockaccel.dbus.inbox import Frame
from sockaccel.dbus.limits import Limit
from sockaccel.errors import LimitExceeded

# Of a client whose user is not known yet.
_MAXIMUM_CALLS, _MAXIMUM_BYTES = 1024, 256 * 1024

Client = OrderedDict[str, deque[Frame]]


class Stranger:
    """A client whose user is being looked up, and its calls meanwhile."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self._bytes = 0

    def put(self, frame: Frame) -> None:
        """Raises LimitExceeded."""
        if len(self.frames) >= _MAXIMUM_CALLS or self._bytes + len(frame.raw) > _MAXIMUM_BYTES:
            raise LimitExceeded('a new client has sent too many calls at once: wait for answers')
        self.frames.append(frame)
        self._bytes += len(frame.raw)


class Turns:
    """The one place that says no to too many calls, so that uid 0 always has room."""

    def __init__(self) -> None:
        hint = 'wait for answers'
        # A call counts until it is answered, its bytes until it is served.
        self._calls = Limit('calls in progress', hint, each=1024, privileged=4096, together=8192)
        self._bytes = Limit(
            'bytes of waiting calls', hint, each=1024 * 1024, privileged=4096 * 1024, together=16384 * 1024
        )
        # By user and client; first those whose turn is next.
        self._waiting: OrderedDict[int, Client] = OrderedDict()

    def is_full(self, user: int) -> bool:
        """Whether `put()` would raise LimitExceeded, for the usual reason: in a flood that takes too long."""
        return self._calls.is_reached(user)

    def put(self, user: int, frame: Frame) -> None:
        """Let a call wait for its turn; once served it must `leave()`. Raises LimitExceeded."""
        self._calls.take(user)
        try:
            self._bytes.take(user, len(frame.raw))
        except LimitExceeded:
            self._calls.give_back(user)
            raise
        self._waiting.setdefault(user, OrderedDict()).setdefault(frame.sender, deque()).append(frame)

    def next(self) -> tuple[int, Frame] | None:
        """The user and the call whose turn it is; None if none waits."""
        if not self._waiting:
            return None
        user, clients = self._waiting.popitem(last=False)
        sender, frames = clients.popitem(last=False)
        frame = frames.popleft()
        if frames:
            clients[sender] = frames
        if clients:
            self._waiting[user] = clients
        self._bytes.give_back(user, len(frame.raw))
        return user, frame

    def leave(self, user: int) -> None:
        self._calls.give_back(user)

    def drop(self, sender: str) -> None:
        """Forget the waiting calls of a client."""
        for user, clients in list(self._waiting.items()):
            for frame in clients.pop(sender, ()):
                self._calls.give_back(user)
                self._bytes.give_back(user, len(frame.raw))
            if not clients:
                del self._waiting[user]

    def drop_all(self) -> list[Frame]:
        """Forget all that wait; returns them."""
        found = [frame for clients in self._waiting.values() for frames in clients.values() for frame in frames]
        for clients in list(self._waiting.values()):
            for sender in list(clients):
                self.drop(sender)
        return found
