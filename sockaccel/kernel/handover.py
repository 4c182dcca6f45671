# SPDX-License-Identifier: GPL-2.0-or-later
"""How the loader's processes pass kernel objects to each other and to the daemon: one message, fds attached.

What is imported here delays each cold start.
"""

import json
import os
import socket
from collections.abc import Mapping

from sockaccel import errors
from sockaccel.errors import SockaccelError

_LARGEST_MESSAGE = 65536
# SCM_MAX_FD in include/net/scm.h
_MOST_FDS = 253
# Every error of sockaccel's can be sent, by the name of its class.
_FAILURES: dict[str, type[SockaccelError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, SockaccelError)
}


def channel() -> tuple[socket.socket, socket.socket]:
    """Two ends for two processes.

    What a process sent stays readable after it has ended, unless it had not read all that was sent to it. Then the
    kernel resets the connection.
    """
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(to: socket.socket, fds: Mapping[str, int]) -> None:
    """Send fds by the names of their objects, at most 253. Raises OSError if the receiver has ended."""
    socket.send_fds(to, [json.dumps({'names': list(fds)}).encode()], list(fds.values()))


def send_failure(to: socket.socket, failure: SockaccelError) -> None:
    """Let `receive()` raise an error of this class and text. Raises OSError if the receiver has ended."""
    to.send(json.dumps({'error': str(failure), 'kind': type(failure).__name__}).encode())


def receive(sender: socket.socket) -> dict[str, int]:
    """Fds by the names of their objects. The caller owns them; they are not inheritable.

    Raises what was sent with send_failure(), and EOFError if the sender has ended without a message.
    """
    data, fds, _flags, _address = socket.recv_fds(sender, _LARGEST_MESSAGE, _MOST_FDS)
    if not data:
        raise EOFError
    answer = json.loads(data)
    if 'error' in answer:
        raise _FAILURES[answer['kind']](answer['error'])
    for fd in fds:
        os.set_inheritable(fd, False)
    return dict(zip(answer['names'], fds, strict=True))
