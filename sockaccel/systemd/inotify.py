# SPDX-License-Identifier: GPL-2.0-or-later
"""inotify(7) by ctypes, for entries of directories that are made and removed."""

import ctypes
import os
import struct
from dataclasses import dataclass

# linux/inotify.h
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
_IN_ONLYDIR = 0x01000000
_IN_EXCL_UNLINK = 0x04000000

# struct inotify_event, without the name behind it
_EVENT = struct.Struct('=iIII')
# Some thousand events; one with the longest name must fit (inotify(7)).
_BUFFER = 1 << 17

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Happening:
    """watch: -1 with IN_Q_OVERFLOW. name: of the entry in the directory, '' for what concerns the watch itself."""

    watch: int
    mask: int
    name: str


class Inotify:
    """Watches directories for entries that are made and removed. `fd` is readable when something happened."""

    def __init__(self) -> None:
        self.fd: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self.fd < 0:
            raise _error('inotify_init1')

    def watch(self, directory: str | os.PathLike[str]) -> int:
        """Watch a directory; returns the watch's number, which is the same again for the same directory.

        Raises OSError, ENOENT where no directory is.
        """
        mask = IN_CREATE | IN_DELETE | _IN_ONLYDIR | _IN_EXCL_UNLINK
        watch: int = _libc.inotify_add_watch(self.fd, os.fsencode(directory), mask)
        if watch < 0:
            raise _error(os.fspath(directory))
        return watch

    def unwatch(self, watch: int) -> None:
        """End a watch; an event with IN_IGNORED comes. A watch whose directory is gone is no error."""
        _libc.inotify_rm_watch(self.fd, watch)

    def read(self) -> list[Happening]:
        """Events, as many as a buffer takes. While there are more, the fd stays readable."""
        try:
            data = os.read(self.fd, _BUFFER)
        except BlockingIOError:
            return []
        found, at = [], 0
        while at < len(data):
            watch, mask, _cookie, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            found.append(Happening(watch, mask, os.fsdecode(data[at : at + length].rstrip(b'\0'))))
            at += length
        return found

    def close(self) -> None:
        os.close(self.fd)


def _error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), what)
