# SPDX-License-Identifier: GPL-2.0-or-later
"""How the loader's processes hand over kernel objects: one datagram with names, and their fds attached.

What is imported here delays each cold start.
"""

import json
import os
import socket
from collections.abc import Mapping

from sockaccel.errors import KernelRefused, SockaccelError, UnsupportedKernel

_LARGEST_MESSAGE = 65536
# SCM_MAX_FD in include/net/scm.h
_MOST_FDS = 253
_FAILURES: dict[str, type[SockaccelError]] = {
    'UnsupportedKernel': UnsupportedKernel,
    'KernelRefused': KernelRefused,
}


def channel() -> tuple[socket.socket, socket.socket]:
    """For two processes. What one sent is there for the other when it has ended, if it had received all itself."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(to: socket.socket, fds: Mapping[str, int]) -> None:
    """fds: by the name of the object, at most 253. Raises OSError where nobody is left to receive."""
    socket.send_fds(to, [json.dumps({'names': list(fds)}).encode()], list(fds.values()))


def send_failure(to: socket.socket, failure: SockaccelError) -> None:
    to.send(json.dumps({'error': str(failure), 'kind': type(failure).__name__}).encode())


def receive(sender: socket.socket) -> dict[str, int]:
    """Name -> fd, which is the caller's and not inheritable.

    Raises what was sent with send_failure(), and EOFError where the other process has ended without an answer.
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
