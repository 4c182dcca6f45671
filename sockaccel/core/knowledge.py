# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be known of a program."""

from enum import IntFlag


class Knowledge(IntFlag):
    """A program reads by splice(); asks ioctl(FIONREAD); has called recv() in blocking mode, with MSG_TRUNC; waits
    with MSG_WAITALL; opens listeners for other programs.
    """

    SPLICES = 1
    ASKS_FIONREAD = 2
    BLOCKS = 4
    DISCARDS = 8
    WAITS_FOR_ALL = 16
    LISTENS = 32


WHY = {
    Knowledge.SPLICES: 'it reads by splice(), which does not find redirected bytes',
    Knowledge.ASKS_FIONREAD: 'it asks ioctl(FIONREAD), which some kernels answer wrongly for accelerated sockets',
    Knowledge.BLOCKS: 'it reads in blocking mode, so its sockets need O_NONBLOCK to be accelerated',
    Knowledge.DISCARDS: 'it reads with MSG_TRUNC, which does not discard redirected bytes',
    Knowledge.LISTENS: 'it opens listeners for other programs, so sockaccel looks who accepts each connection',
    Knowledge.WAITS_FOR_ALL: 'it waits with MSG_WAITALL, which returns too early on an accelerated socket',
}
