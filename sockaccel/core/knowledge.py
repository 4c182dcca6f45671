# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be known of a program."""

from enum import IntFlag


class Knowledge(IntFlag):
    """A program reads by splice(); asks ioctl(FIONREAD); has called recv() in blocking mode."""

    SPLICES = 1
    ASKS_FIONREAD = 2
    BLOCKS = 4


WHY = {
    Knowledge.SPLICES: 'it reads by splice(), which does not find redirected bytes',
    Knowledge.ASKS_FIONREAD: 'it asks ioctl(FIONREAD), which some kernels answer wrongly for accelerated sockets',
    Knowledge.BLOCKS: 'it reads in blocking mode',
}
