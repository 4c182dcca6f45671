# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon for the tests of a file about interception: its programs stay loaded, and its store keeps its links."""

import os
from collections.abc import Iterator

import pytest

from tests.support.harness import Cgroup, Daemon, FdStore, PrivateBus


@pytest.fixture(scope='module')
def lead_above(request: pytest.FixtureRequest) -> Iterator[Cgroup]:
    """Where the programs of others are that run after ours."""
    with PrivateBus(), Cgroup(f'sockaccel-{request.path.stem}-{os.getpid()}') as cgroup:
        yield cgroup


@pytest.fixture(scope='module')
def lead_root(lead_above: Cgroup) -> Cgroup:
    """What the daemon is confined to."""
    return Cgroup('root', lead_above)


@pytest.fixture(scope='module')
def lead_daemon(lead_root: Cgroup) -> Iterator[Daemon]:
    with FdStore() as store, Daemon(lead_root.path, store=store) as daemon:
        yield daemon.ready()
    assert 'Traceback' not in daemon.log_text
