# SPDX-License-Identifier: GPL-2.0-or-later
"""A file whose content comes when a test says so: whoever touches a mapping of it sleeps until then.

Anybody can mount such a file by fusermount(1). This is a file system of one file, as linux/fuse.h wants it.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import select
import stat
import struct
import tempfile
import threading
from collections.abc import Iterator

from tests.conformance import syscalls
from tests.conformance.bench import Unsupported
from tests.support.patience import PATIENCE_S

PAGE = mmap.PAGESIZE
# linux/fuse.h
_GETATTR, _OPEN, _READ, _INIT, _RELEASE, _FLUSH = 3, 14, 15, 26, 18, 25
_UNANSWERED = (2, 36)  # FORGET, INTERRUPT
_IN = struct.Struct('=IIQQIIIHH')
_OUT = struct.Struct('=IiQ')
_MODE = stat.S_IFREG | 0o600
_INITIALIZED = struct.pack('=IIIIHHIIHHI28x', 7, 26, PAGE, 0, 0, 0, PAGE, 1, 0, 0, 0)
_ATTRIBUTES = struct.pack('=QII6Q10I', 1, 0, 0, 1, PAGE, 1, 0, 0, 0, 0, 0, 0, _MODE, 1, 0, 0, 0, PAGE, 0)
_OPENED = struct.pack('=QIi', 0, 0, 0)
# sys/mount.h
_MNT_DETACH = 2


class LazyFile:
    """address: of a page that is a private mapping of the file, for reading and writing."""

    def __init__(self, device: int, path: str) -> None:
        self._device = device
        self._path = path
        self._asked, self._filled = threading.Event(), threading.Event()
        self._server = threading.Thread(target=self._serve, daemon=True)
        self._server.start()
        file = os.open(path, os.O_RDWR)
        # Until somebody asks, the kernel takes its size for 0.
        os.fstat(file)
        self.address = syscalls.libc.mmap(None, PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, file, 0)
        os.close(file)

    def is_awaited(self) -> bool:
        """Whether somebody sleeps for it, at last."""
        return self._asked.wait(PATIENCE_S)

    def fill(self) -> None:
        self._filled.set()

    def close(self) -> None:
        """Nobody may use the page any more."""
        self.fill()
        syscalls.checked(syscalls.libc.umount2(self._path.encode(), _MNT_DETACH), 'umount2')
        syscalls.checked(syscalls.libc.munmap(ctypes.c_void_p(self.address), PAGE), 'munmap')
        self._server.join(PATIENCE_S)
        os.close(self._device)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        while True:
            poll.poll()
            try:
                request = os.read(self._device, 1 << 16)
            except OSError as error:
                # ENODEV: it is mounted no more. Others are for a request that was taken back.
                if error.errno == errno.ENODEV:
                    return
                continue
            _length, operation, unique, *_rest = _IN.unpack_from(request)
            if operation not in _UNANSWERED:
                number, answer = self._answer(operation)
                os.write(self._device, _OUT.pack(_OUT.size + len(answer), -number, unique) + answer)

    def _answer(self, operation: int) -> tuple[int, bytes]:
        """An errno, or 0 and what is asked for."""
        if operation == _READ:
            self._asked.set()
            self._filled.wait()
            return 0, bytes(PAGE)
        known = {_INIT: _INITIALIZED, _GETATTR: _ATTRIBUTES, _OPEN: _OPENED, _RELEASE: b'', _FLUSH: b''}
        return (0, known[operation]) if operation in known else (errno.ENOSYS, b'')


@contextlib.contextmanager
def lazy_file() -> Iterator[LazyFile]:
    """Raises Unsupported."""
    with tempfile.NamedTemporaryFile() as place:
        try:
            device = os.open('/dev/fuse', os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise Unsupported(f'/dev/fuse: {error}') from error
        options = f'fd={device},rootmode={_MODE:o},user_id=0,group_id=0'
        try:
            syscalls.checked(
                syscalls.libc.mount(b'lazy', place.name.encode(), b'fuse', 0, options.encode()), 'mount'
            )
        except OSError as error:
            os.close(device)
            raise Unsupported(f'FUSE: {error}') from error
        with contextlib.closing(LazyFile(device, place.name)) as made:
            yield made
