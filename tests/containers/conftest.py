# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures: the engines, and cgroups that containers are started in.

These want packages of their own, so they run only when somebody asks for this directory.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.engines import Docker, Podman
from tests.containers.machine import machine
from tests.containers.room import Room
from tests.support import harness
from tests.support.harness import Cgroup, Daemon
from tests.support.patience import LONG_S

__all__ = ['machine']
HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(LONG_S))


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    asked = [Path(config.invocation_params.dir, argument.partition('::')[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(HERE) for path in asked) else True


@pytest.fixture(scope='session')
def engines_cgroup(root_cgroup: Cgroup) -> Cgroup:
    """Where the engines themselves run: docker-proxy is in no target."""
    return Cgroup('engines', root_cgroup)


@pytest.fixture(scope='session')
def room(engines_cgroup: Cgroup) -> Iterator[Room]:
    with Room(engines_cgroup) as room:
        yield room


@pytest.fixture(scope='session')
def docker(room: Room) -> Docker:
    """As it is installed, with docker-proxy for the ports that containers publish."""
    return Docker(room)


@pytest.fixture(scope='session')
def docker_without_proxy(engines_cgroup: Cgroup) -> Iterator[tuple[Docker, Room]]:
    with Room(engines_cgroup) as room:
        yield Docker(room, '--userland-proxy=false'), room


@pytest.fixture(scope='session')
def podman(engines_cgroup: Cgroup) -> Iterator[tuple[Podman, Room]]:
    with Room(engines_cgroup) as room:
        yield Podman(room), room


@pytest.fixture(scope='session')
def stack(daemon: Daemon, root_cgroup: Cgroup) -> Cgroup:
    """The cgroup of some containers that belong together, as cgroup_parent: of a compose file names it."""
    cgroup = Cgroup('stack', root_cgroup)
    harness.enable(cgroup.path, *harness.every_issue(), OtherNamespaces='yes')
    return cgroup


@pytest.fixture(scope='session')
def host(stack: Cgroup) -> Cgroup:
    """Where a program of the host runs that belongs to the same target as the containers."""
    return Cgroup('host', stack)


@pytest.fixture(scope='session')
def closed_stack(daemon: Daemon, root_cgroup: Cgroup) -> Cgroup:
    """The same, but its target allows one network namespace only, as targets do by default."""
    cgroup = Cgroup('closed', root_cgroup)
    harness.enable(cgroup.path, *harness.every_issue())
    return cgroup
