# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the fds of kernel objects outlive the process: in systemd's store, or pinned to the BPF file system."""

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import structlog

from sockaccel import libbpf
from sockaccel.errors import AlreadyRunning

log = structlog.stdlib.get_logger()

PINS = Path('/sys/fs/bpf/sockaccel')
# sd_listen_fds(3)
_FIRST_FD = 3
# How long a busy service manager may take to read one message.
_PATIENCE_S = 5.0


class Store(Protocol):
    """Names are of letters, digits, `_` and `-`: bpffs reserves the dot, systemd the colon."""

    def take(self) -> dict[str, int]:
        """What was kept by an earlier process, under its name; the fds are the caller's. Once."""

    def keep(self, name: str, fd: int) -> None:
        """Let an object outlive the process. What cannot be kept is logged: it ends with the process then."""

    def drop(self, names: Iterable[str]) -> None:
        """Keep no longer; a name that is not there is no harm."""

    def close(self) -> None: ...


class SystemdStore:
    """FDSTORE= of sd_notify(3). notify: the connected socket of $NOTIFY_SOCKET."""

    def __init__(self, notify: socket.socket) -> None:
        self._notify = notify
        self._listens = True

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


class Pins:
    """One directory below the BPF file system, ours alone. Raises AlreadyRunning while another process has it."""

    def __init__(self, directory: Path = PINS) -> None:
        self._directory = directory
        self._fd = -1
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            status = os.fstat(self._fd)
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
                raise PermissionError(None, 'somebody else may write to it')
        except OSError as exc:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            log.warning(
                f'Nothing will outlive this process: "{directory}" cannot hold pins ({exc.strerror}), ignoring'
            )
            return
        lock(self._fd, directory)

    def take(self) -> dict[str, int]:
        held = {}
        for name in self._names():
            try:
                held[name] = libbpf.get_pinned(self._directory / name)
            except OSError as exc:
                log.warning(f'The pin "{self._directory / name}" cannot be opened ({exc.strerror}), ignoring')
        return held

    def keep(self, name: str, fd: int) -> None:
        if self._fd < 0:
            return
        try:
            self.drop([name])
            libbpf.pin(fd, self._directory / name)
        except OSError as exc:
            log.warning(f'"{name}" cannot be pinned in "{self._directory}" ({exc.strerror}), ignoring')

    def drop(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                (self._directory / name).unlink()

    def close(self) -> None:
        """Remove the directory if nothing is in it."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            self._directory.rmdir()
        os.close(self._fd)
        self._fd = -1

    def _names(self) -> list[str]:
        return sorted(os.listdir(self._fd)) if self._fd >= 0 else []


def lock(directory: int, path: Path) -> None:
    """Be the only process that has this directory, as long as the fd is open. Raises AlreadyRunning."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise AlreadyRunning(f'another sockaccel works with "{path}": stop it first') from exc
