# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections without end, of which each is told who has answered."""

import contextlib
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Self

from tests.support import harness
from tests.support.harness import Cgroup
from tests.support.led import Place, original
from tests.support.patience import SLOWER

# Connects for ever, and writes a letter for each connection: what it was told, R for refused, X for anything else.
_CONNECTS = """
import socket, sys
while True:
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 60) as client:
            said = client.recv(1) or b'X'
    except ConnectionRefusedError:
        said = b'R'
    except OSError:
        said = b'X'
    sys.stdout.buffer.write(said)
    sys.stdout.buffer.flush()
"""


def fewer(count: int) -> int:
    """How many connections do for so many where the machine is emulated."""
    return round(count / max(1.0, SLOWER / 4))


class Traffic:
    """A program of a cgroup that connects again and again; a context manager.

    told: how often what happened, by letter.
    """

    def __init__(self, where: Place, address: str, port: int, *, of: Cgroup, uid: int = 0) -> None:
        self.told: Counter[str] = Counter()
        self._process = where.start(
            'setpriv', f'--reuid={uid}', sys.executable, '-S', '-c', _CONNECTS, address, str(port), of=of
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout
        while letters := os.read(self._process.stdout.fileno(), 65536):
            self.told.update(letters.decode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        harness.stop(self._process)
        self._thread.join()
        assert self._process.stdout
        self._process.stdout.close()

    def goes_on(self, letter: str, count: int) -> None:
        """Wait for so many more of these."""
        seen = self.told[letter]
        harness.wait_until(lambda: self.told[letter] >= seen + count, f'{count} more of "{letter}": {self.told}')


@contextlib.contextmanager
def answering(listener: socket.socket, answer: Callable[[socket.socket, str], bytes]) -> Iterator[None]:
    """Say to each client what `answer` says of its socket and its address. Closes the listener at the end."""

    def work() -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, address = listener.accept()
                with accepted, contextlib.suppress(OSError):
                    accepted.send(answer(accepted, address[0]))

    thread = threading.Thread(target=work)
    listener.settimeout(None)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def serving(
    listener: socket.socket, said: bytes, *, wanted: tuple[str, int] | None = None
) -> contextlib.AbstractContextManager[None]:
    """Say a byte to each client. wanted: only to one that wanted this, as SO_ORIGINAL_DST says; N to another."""
    return answering(
        listener, lambda accepted, _address: said if not wanted or original(accepted) == wanted else b'N'
    )
