# SPDX-License-Identifier: GPL-2.0-or-later
"""Network namespaces of our own: their addresses, settings and counters are nobody else's."""

import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

from tests.conformance.syscalls import new_network


def namespace() -> ThreadPoolExecutor:
    """One thread in a network namespace of its own with the loopback interface up."""
    pool = ThreadPoolExecutor(1)
    pool.submit(new_network).result()
    return pool


# A thread in each of two network namespaces.
Hosts = tuple[ThreadPoolExecutor, ThreadPoolExecutor]


class TwoHosts:
    """Two such threads, joined by a veth pair: 10.99.0.1 and 10.99.0.2. A context manager that gives both."""

    def __enter__(self) -> Hosts:
        self._pools = (namespace(), namespace())
        first, second = (f'/proc/{os.getpid()}/task/{_thread(pool)}/ns/net' for pool in self._pools)
        for network, arguments in (
            (first, f'link add veth0 type veth peer name veth0 netns {second}'),
            (first, 'addr add 10.99.0.1/24 dev veth0'),
            (first, 'link set veth0 up'),
            (second, 'addr add 10.99.0.2/24 dev veth0'),
            (second, 'link set veth0 up'),
        ):
            subprocess.run(['nsenter', f'--net={network}', 'ip', *arguments.split()], check=True)
        return self._pools

    def __exit__(self, *_exc: object) -> None:
        for pool in self._pools:
            pool.shutdown()


def _thread(pool: ThreadPoolExecutor) -> int:
    return pool.submit(threading.get_native_id).result()


def dropped() -> int:
    """How many times segments were dropped for want of room in a receive buffer (TcpExt RcvPruned).

    Of the namespace that this thread is in.
    """
    with open('/proc/thread-self/net/netstat') as file:
        lines = [line.split() for line in file if line.startswith('TcpExt:')]
    return int(dict(zip(*lines, strict=True))['RcvPruned'])
