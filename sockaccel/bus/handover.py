# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets that answers hand over: what is written to one end does not go by the bus."""

import socket

from sockaccel.dbus.limits import Limit


def pair(limit: Limit, user: int) -> tuple[socket.socket, socket.socket]:
    """Our end, which does not block, and the one to hand over. One is taken from the user's `limit`.

    Raises LimitExceeded, OSError; then nothing is taken.
    """
    limit.take(user)
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError:
        limit.give_back(user)
        raise
    ours.setblocking(False)
    return ours, theirs
