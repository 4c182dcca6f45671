# SPDX-License-Identifier: GPL-2.0-or-later
"""Pins in the BPF file system, where kernel objects outlive the process when systemd does not keep its fds."""

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

import structlog

from sockaccel.core.lock import lock
from sockaccel.kernel import libbpf

log = structlog.stdlib.get_logger()

PINS = Path('/sys/fs/bpf/sockaccel')


class Pins:
    """A store (sockaccel.core.store) in a directory of the BPF file system, which only this process uses.

    The constructor raises AlreadyRunning while another process has the directory. If it cannot be used, that is
    logged and nothing is kept.
    """

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
                f'A crash will give connections back to TCP: "{directory}" cannot hold pins ({exc.strerror}), '
                'ignoring'
            )
            return
        lock(self._fd, directory)

    @property
    def keeps(self) -> bool:
        return self._fd >= 0

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
        # What is in a directory that others may write to is not ours to remove.
        if self._fd < 0:
            return
        for name in names:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                (self._directory / name).unlink()

    def close(self) -> None:
        """Close the directory, and remove it if it is empty."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            self._directory.rmdir()
        os.close(self._fd)
        self._fd = -1

    def _names(self) -> list[str]:
        return sorted(os.listdir(self._fd)) if self._fd >= 0 else []
