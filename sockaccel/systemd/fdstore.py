# SPDX-License-Identifier: GPL-2.0-or-later
"""systemd's file descriptor store, where fds of kernel objects outlive the process."""

import os
import socket
from collections.abc import Iterable

import structlog

log = structlog.stdlib.get_logger()

# sd_listen_fds(3)
_FIRST_FD = 3
# How long to wait until a busy service manager reads a message.
_PATIENCE_S = 5.0


class SystemdStore:
    """Implements sockaccel.core.store.Store by FDSTORE= of sd_notify(3). notify: the socket of $NOTIFY_SOCKET."""

    def __init__(self, notify: socket.socket) -> None:
        self._notify = notify
        self._listens = True

    @property
    def keeps(self) -> bool:
        # Set since systemd 254; older ones say nothing.
        return self._listens and os.environ.get('FDSTORE') != '0'

    def take(self) -> dict[str, int]:
        given = {name: os.environ.pop(name, '') for name in ('LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES')}
        if given['LISTEN_PID'] != str(os.getpid()) or not given['LISTEN_FDS'].isdigit():
            return {}
        held: dict[str, int] = {}
        fds = range(_FIRST_FD, _FIRST_FD + int(given['LISTEN_FDS']))
        for fd, name in zip(fds, given['LISTEN_FDNAMES'].split(':'), strict=False):
            os.set_inheritable(fd, False)
            if name in held:
                os.close(fd)
            else:
                held[name] = fd
        return held

    def keep(self, name: str, fd: int) -> None:
        # Without FDPOLL=0 systemd would drop an fd that does not support poll at once.
        self._send(f'FDSTORE=1\nFDNAME={name}\nFDPOLL=0', [fd])

    def drop(self, names: Iterable[str]) -> None:
        for name in names:
            self._send(f'FDSTOREREMOVE=1\nFDNAME={name}', [])

    def close(self) -> None:
        pass

    def _send(self, message: str, fds: list[int]) -> None:
        if not self._listens:
            return
        before = self._notify.gettimeout()
        try:
            self._notify.settimeout(_PATIENCE_S)
            socket.send_fds(self._notify, [message.encode()], fds)
        except OSError as exc:
            self._listens = False
            log.warning(f'The service manager keeps nothing any more for the next start ({exc}), ignoring')
        finally:
            self._notify.settimeout(before)
