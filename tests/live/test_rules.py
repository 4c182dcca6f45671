# SPDX-License-Identifier: GPL-2.0-or-later
"""Which connections the configuration wants: what the kernel makes of the rules."""

import os
import socket
from collections.abc import Iterator

import pytest

from tests.support import harness, traffic
from tests.support.harness import Cgroup, Daemon, PrivateBus


@pytest.fixture
def root() -> Iterator[Cgroup]:
    with PrivateBus(), Cgroup(f'sockaccel-rules-{os.getpid()}') as root:
        yield root


def refused(root: Cgroup, listener: socket.socket) -> bool:
    """Whether a new connection to a listener is left out by a rule; otherwise it joins."""
    before = harness.call('Stats')['connection_reason_excluded']
    made = traffic.connect(listener, 'ipv6' if listener.family == socket.AF_INET6 else 'ipv4')
    try:
        if harness.call('Stats')['connection_reason_excluded'] > before:
            return True
        harness.wait_until(lambda: traffic.is_member(made.client), 'the connection joins')
        return False
    finally:
        made.close()


def test_rules_in_the_kernel(root: Cgroup) -> None:
    with root.inside(), Daemon(root.path, 'JoinDelayMs=0\n') as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        with traffic.listen() as listener, traffic.listen('ipv6') as ipv6:
            port = listener.getsockname()[1]
            for settings, expected in {
                '': False,
                f'IncludePorts={port}\n': False,
                f'IncludePorts={port + 1}-65535\n': True,
                f'IncludePorts=1-{port}\n': False,
                f'ExcludePorts={port}\n': True,
                f'IncludePorts=1-65535\nExcludePorts={port}\n': True,
                'IncludeAddresses=127.0.0.0/8\n': False,
                'IncludeAddresses=::1\n': True,
                'ExcludeAddresses=127.0.0.1\n': True,
                'IncludeUsers=root\n': False,
                'ExcludeUsers=0-10\n': True,
                'IncludeUsers=1-4000\n': True,
                f'IncludeUsers=root\nIncludePorts={port}\nIncludeAddresses=127.0.0.1\n': False,
                f'IncludeUsers=root\nIncludePorts={port}\nIncludeAddresses=127.0.0.2\n': True,
            }.items():
                daemon.configure(f'JoinDelayMs=0\n{settings}')
                harness.call('Reload')
                assert refused(root, listener) is expected, settings
            daemon.configure('JoinDelayMs=0\nIncludeAddresses=::1\n')
            harness.call('Reload')
            assert refused(root, ipv6) is False
            # What is wrong keeps what is in force.
            daemon.configure('IncludePorts=x\n')
            answer = harness.control('reload')
            assert answer.returncode == 1
            assert ':3: IncludePorts= "x" has "x"' in answer.stderr
            assert refused(root, listener) is True
