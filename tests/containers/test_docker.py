# SPDX-License-Identifier: GPL-2.0-or-later
"""Containers that Docker has made, and the ports that they publish."""

import re
from collections.abc import Iterator

import pytest

from tests.containers.engines import Docker
from tests.containers.room import SERVER_PORT, Room
from tests.containers.talk import ROUNDS
from tests.support import harness
from tests.support.harness import Cgroup

PUBLISHED = 8_080
LOOPBACK = '127.0.0.1'
BY_TCP = {'redirected': 0, 'tcp': ROUNDS}
PUBLISH = f'--publish={PUBLISHED}:{SERVER_PORT}'


@pytest.fixture
def server(docker: Docker, stack: Cgroup) -> Iterator[str]:
    """The address of a container that publishes its port."""
    yield docker.serve('server', stack, PUBLISH)
    docker.remove('server')


def address_of_host(room: Room) -> str:
    """What Docker's bridge has: the rules for published ports leave loopback's addresses to docker-proxy."""
    found = re.search(r'inet ([\d.]+)', room.run('ip', '-4', 'address', 'show', 'docker0'))
    assert found
    return found[1]


def redirected(ways: dict[str, int]) -> bool:
    """Whether it was the rule: a message that meets an unread one, or a busy reader, goes by TCP."""
    return ways['redirected'] > ROUNDS / 2


def test_two_containers_on_a_bridge(docker: Docker, server: str, stack: Cgroup) -> None:
    assert redirected(docker.ask(server, SERVER_PORT, stack))


def test_two_containers_whose_target_allows_one_namespace(docker: Docker, closed_stack: Cgroup) -> None:
    address = docker.serve('closed', closed_stack)
    try:
        assert docker.ask(address, SERVER_PORT, closed_stack, seconds=1) == BY_TCP
    finally:
        docker.remove('closed')


def test_a_container_of_another_target(docker: Docker, server: str, closed_stack: Cgroup, stack: Cgroup) -> None:
    assert docker.ask(server, SERVER_PORT, closed_stack, seconds=1) == BY_TCP
    assert redirected(docker.ask(server, SERVER_PORT, stack))


def test_a_published_port_from_the_host(docker: Docker, room: Room, server: str, host: Cgroup) -> None:
    assert redirected(room.ask(address_of_host(room), PUBLISHED, host))


def test_a_published_port_without_docker_proxy(
    docker_without_proxy: tuple[Docker, Room], stack: Cgroup, host: Cgroup
) -> None:
    """From a neighbour, whose address is of the same bridge, and by loopback: both addresses are translated."""
    docker, room = docker_without_proxy
    docker.serve('unproxied', stack, PUBLISH)
    try:
        assert redirected(docker.ask(address_of_host(room), PUBLISHED, stack))
        assert redirected(room.ask(LOOPBACK, PUBLISHED, host))
    finally:
        docker.remove('unproxied')


def test_a_published_port_by_docker_proxy(room: Room, server: str, host: Cgroup) -> None:
    """The proxy splices. Where the kernel lets sockaccel see that, no byte is lost, and the client is redirected.

    Elsewhere the list of programs keeps it with TCP (programs.conf). Its other connection, into the container, is
    one between different targets.
    """
    before = harness.call('Stats')['connection_reason_known_program']
    ways = room.ask(LOOPBACK, PUBLISHED, host, seconds=1)
    if 'splice' in harness.every_issue():
        assert ways == BY_TCP
        assert harness.call('Stats')['connection_reason_known_program'] > before


def test_a_container_that_is_made_anew(docker: Docker, server: str, stack: Cgroup) -> None:
    """Its cgroup has another name each time; the target is the one above."""
    assert redirected(docker.ask(server, SERVER_PORT, stack))
    docker.remove('server')
    address = docker.serve('server', stack, PUBLISH)
    assert redirected(docker.ask(address, SERVER_PORT, stack))


def test_the_last_container_of_a_target(docker: Docker, root_cgroup: Cgroup) -> None:
    """A target that is a container's own cgroup goes with it, and the target waits for another one."""
    with Cgroup('single', root_cgroup) as parent:
        docker.serve('single', parent)
        (cgroup,) = [path for path in parent.directory.iterdir() if path.is_dir()]
        name = f'{parent.path}/{cgroup.name}'
        harness.enable(name, *harness.every_issue(), OtherNamespaces='yes')
        try:
            assert state_of(name) == 'active'
            docker.remove('single')
            harness.wait_until(lambda: state_of(name) == 'waiting', 'the target waits')
        finally:
            harness.call('Disable', 's', name)


def state_of(name: str) -> str:
    return next(state for target, state, _detail in harness.targets() if target == name)
