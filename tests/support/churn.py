# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that makes connections of a cgroup without pause; `main()` is that process."""

import collections
import json
import socket
import subprocess
import sys
import threading
from typing import Any, Self

from tests.support import traffic
from tests.support.harness import ROOT, Cgroup
from tests.support.traffic import Pair

# So many are open at the same time.
_OPEN = 20
# linux/tcp.h: in struct tcp_info, and what it says there of a connection that does ECN.
_TCP_INFO_OPTIONS, _TCPI_OPT_ECN = 5, 8


class Churn:
    """A context manager; `end()` before its end."""

    def __init__(self, cgroup: Cgroup) -> None:
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'tests.support.churn'],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=cgroup.enter,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.communicate()

    def go_on(self) -> None:
        """Return when another hundred connections were opened and closed, all of them from now on."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write('go on\n')
        self._process.stdin.flush()
        assert self._process.stdout.readline() == 'went on\n', 'a connection failed'

    def end(self) -> dict[str, Any]:
        """made: how many connections there were, all closed now; with_ecn: how many ends used ECN."""
        return dict(json.loads(self._process.communicate()[0]))


class _Connections:
    def __init__(self) -> None:
        self.made = self.with_ecn = 0
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def wait_for(self, count: int) -> bool:
        """Return when so many were made, False if there was a failure."""
        with self._changed:
            return self._changed.wait_for(lambda: self.made >= count or self._ending)

    def end(self) -> None:
        self._ending = True
        self._thread.join()

    def _run(self) -> None:
        kept: collections.deque[Pair] = collections.deque()
        try:
            with traffic.listen() as listener:
                while not self._ending:
                    kept.append(traffic.connect(listener))
                    traffic.exchange(kept[-1], rounds=1)
                    self.with_ecn += _uses_ecn(kept[-1].client) + _uses_ecn(kept[-1].server)
                    if len(kept) > _OPEN:
                        traffic.exchange(kept[0], rounds=1)
                        kept.popleft().close()
                    with self._changed:
                        self.made += 1
                        self._changed.notify()
        finally:
            for pair in kept:
                pair.close()
            with self._changed:
                self._ending = True
                self._changed.notify()


def _uses_ecn(end: socket.socket) -> bool:
    info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_OPTIONS + 1)
    return bool(info[_TCP_INFO_OPTIONS] & _TCPI_OPT_ECN)


def main() -> None:
    connections = _Connections()
    for _line in sys.stdin:
        if not connections.wait_for(connections.made + _OPEN + 100):
            break
        print('went on', flush=True)
    connections.end()
    print(json.dumps({'made': connections.made, 'with_ecn': connections.with_ecn}))


if __name__ == '__main__':
    main()
