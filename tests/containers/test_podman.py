# SPDX-License-Identifier: GPL-2.0-or-later
"""Containers that Podman has made."""

from tests.containers.engines import Podman
from tests.containers.room import IMAGE, SERVE, SERVER_PORT, VOLUMES, Room, answer, asking
from tests.containers.test_docker import PUBLISH, PUBLISHED, redirected
from tests.support.harness import Cgroup


def test_two_containers_on_a_bridge(podman: tuple[Podman, Room], stack: Cgroup) -> None:
    engine, _room = podman
    address = engine.serve('bridged', stack)
    try:
        assert redirected(engine.ask(address, SERVER_PORT, stack))
    finally:
        engine.remove('bridged')


def test_a_published_port_from_the_host(podman: tuple[Podman, Room], stack: Cgroup, host: Cgroup) -> None:
    engine, room = podman
    engine.serve('published', stack, PUBLISH)
    try:
        assert redirected(room.ask('10.88.0.1', PUBLISHED, host))
    finally:
        engine.remove('published')


def test_containers_that_share_a_network(podman: tuple[Podman, Room], closed_stack: Cgroup) -> None:
    """As those of a pod do: their target need not allow other namespaces."""
    engine, _room = podman
    engine.serve('shared', closed_stack)
    try:
        assert redirected(engine.ask('127.0.0.1', SERVER_PORT, closed_stack, '--network=container:shared'))
    finally:
        engine.remove('shared')


def test_a_pod(podman: tuple[Podman, Room], closed_stack: Cgroup) -> None:
    """Without systemd Podman 4.3 lets no container open /dev/null in the cgroup of a pod: theirs are their own."""
    engine, _room = podman
    run = ('run', '--pod=pod', f'--cgroup-parent={closed_stack.path}', *VOLUMES)
    engine.call('pod', 'create', '--name=pod', '--share-parent=false')
    try:
        engine.call(*run, '--detach', '--name=in-pod', IMAGE, *SERVE)
        asked = asking('127.0.0.1', SERVER_PORT)
        assert redirected(answer(engine.call(*run, '--rm', IMAGE, *asked)))
    finally:
        engine.call('pod', 'rm', '--force', '--time=0', 'pod')
