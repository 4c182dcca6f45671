# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that sleeps in a page fault inside a call on its socket, which keeps the socket's lock meanwhile."""

import contextlib
import fcntl
import mmap
import os
import platform
import select
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conformance import syscalls
from tests.conformance.bench import Bench, Call, Pair, Unsupported
from tests.conformance.catalogue import NONBLOCKING, Observation, behaviour
from tests.conformance.lazyfile import LazyFile, lazy_file
from tests.support.patience import PATIENCE_S

PAGE = mmap.PAGESIZE
# asm/unistd.h
SYS_USERFAULTFD = {'x86_64': 323, 'aarch64': 282}
# linux/userfaultfd.h
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_ZEROPAGE = 0xC018AA3F, 0xC020AA00, 0xC020AA04
UFFD_API, MISSING = 0xAA, 1


class LazyPage:
    """A page of memory whose first use sleeps until fill()."""

    def __init__(self, faults: int) -> None:
        self._faults = faults
        self.address = syscalls.libc.mmap(
            None, PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0
        )
        fcntl.ioctl(faults, UFFDIO_API, struct.pack('QQQ', UFFD_API, 0, 0))
        fcntl.ioctl(faults, UFFDIO_REGISTER, struct.pack('QQQQ', self.address, PAGE, MISSING, 0))

    def is_awaited(self) -> bool:
        """Whether somebody sleeps for it, at last."""
        return bool(select.select([self._faults], [], [], PATIENCE_S)[0])

    def fill(self) -> None:
        fcntl.ioctl(self._faults, UFFDIO_ZEROPAGE, struct.pack('QQQQ', self.address, PAGE, 0, 0))


Lazy = LazyPage | LazyFile


@contextlib.contextmanager
def lazy_page() -> Iterator[LazyPage]:
    """Raises Unsupported."""
    try:
        number = SYS_USERFAULTFD[platform.machine()]
        faults = syscalls.checked(syscalls.libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK), 'userfaultfd')
    except (KeyError, OSError) as error:
        raise Unsupported(f'userfaultfd(): {error}') from error
    try:
        yield LazyPage(faults)
    finally:
        os.close(faults)


def returns(call: Call) -> bool:
    """Whether a call returns before its thread has slept for half a second where no signal wakes it (state D)."""
    slept_since = 0.0
    while call.is_alive():
        # What it reads of a thread that has just ended.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state = Path(f'/proc/self/task/{call.native_id}/stat').read_text().rpartition(')')[2].split()[0]
            now = time.monotonic()
            slept_since = (slept_since or now) if state == 'D' else 0.0
            if slept_since and now - slept_since > 0.5:
                return False
        time.sleep(0.001)
    return True


def sleeps(
    name: str,
    enter: Callable[[Bench, Pair, Lazy], object],
    lazy: Callable[[], contextlib.AbstractContextManager[Lazy]] = lazy_page,
) -> None:
    """Enter whether a send() returns while the other end sleeps in a page fault inside its own call."""

    @behaviour(name, readers=NONBLOCKING, control_fails=True)
    def send_meanwhile(bench: Bench) -> Observation:
        pair = bench.pair()
        with lazy() as page:
            bench.write_all(pair.client, b'first')
            bench.arrives(pair.client)
            sleeper = Call(lambda: enter(bench, pair, page))
            sleeper.start()
            if not page.is_awaited():
                raise RuntimeError('nobody used the page')
            sender = Call(lambda: pair.client.send(b'second'))
            sender.start()
            returned = returns(sender)
            page.fill()
            gives = {'the sleeping call gives': sleeper.result(), 'send() gives': sender.result()}
        rest = bench.read_text(pair.server, 6 if 'recv' in name else 11)
        return {'send() returns meanwhile': returned, **gives, 'and then the reader gets': rest}


def into_the_page(_bench: Bench, pair: Pair, page: Lazy) -> int:
    received: int = syscalls.libc.recv(pair.server.fileno(), page.address, PAGE, 0)
    return received


def out_of_the_page(_bench: Bench, pair: Pair, page: Lazy) -> object:
    return syscalls.send_from_address(pair.server.fileno(), page.address, PAGE)


sleeps('page fault: the reader sleeps in one inside its recv()', into_the_page)
sleeps('page fault: the reader sleeps in one inside a send() of its own', out_of_the_page)
sleeps('page fault: the reader waits for a file of FUSE inside its recv()', into_the_page, lazy_file)
