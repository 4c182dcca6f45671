# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with systemd and engines, where units and slices are what is enabled."""

import pytest

from tests.containers.machine import IMAGE, PROGRAMS, PUBLISHED, SLICE, VOLUMES, ask
from tests.containers.room import SERVE, SERVER_PORT, asking
from tests.containers.test_docker import redirected
from tests.support.patience import LONG_S
from tests.system.container import Container

# The first test may make the machine's root before.
pytestmark = pytest.mark.timeout(2 * LONG_S)


def enable(machine: Container, target: str, *options: str) -> None:
    machine.run('sockaccelctl', 'enable', target, '--accept=fionread', '--accept=splice', *options)


def test_a_quadlet_as_target(machine: Container) -> None:
    """Within the unit's container, whose cgroup is another one after the restart."""
    machine.run('systemctl', 'start', 'app.service')
    enable(machine, 'app.service')
    for _life in range(2):
        assert redirected(ask(machine, 'podman', 'exec', 'app', *asking('127.0.0.1', SERVER_PORT)))
        machine.run('systemctl', 'restart', 'app.service')
    machine.run('sockaccelctl', 'disable', 'app.service')


def test_a_slice_as_target(machine: Container) -> None:
    """A quadlet of it and a program of the host, by the published port."""
    machine.run('systemctl', 'start', 'app.service')
    enable(machine, SLICE, '--other-namespaces')
    asks = asking('127.0.0.1', PUBLISHED, PROGRAMS / 'talk.py')
    inside = ('systemd-run', '--quiet', '--pipe', '--wait', '--collect', f'--slice={SLICE}', '--')
    assert redirected(ask(machine, *inside, *asks))
    assert redirected(ask(machine, *inside, 'podman', 'exec', 'app', *asking('127.0.0.1', SERVER_PORT)))
    machine.run('sockaccelctl', 'disable', SLICE)


def test_a_pod(machine: Container) -> None:
    """Its containers share a network, so their target needs to allow nothing."""
    machine.run('podman', 'pod', 'create', '--name=pod', f'--cgroup-parent={SLICE}')
    run = ('podman', 'run', '--pod=pod', *VOLUMES)
    # A unit of its own: what a command of ours leaves behind ends with it.
    machine.run('systemd-run', '--quiet', '--unit=pod-server', *run, '--name=server', IMAGE, *SERVE)
    enable(machine, SLICE)
    try:
        assert redirected(ask(machine, *run, '--rm', IMAGE, *asking('127.0.0.1', SERVER_PORT)))
    finally:
        machine.run('sockaccelctl', 'disable', SLICE)
        machine.run('podman', 'pod', 'rm', '--force', '--time=0', 'pod')


def test_containers_of_docker_in_a_slice(machine: Container) -> None:
    run = ('docker', 'run', f'--cgroup-parent={SLICE}', *VOLUMES)
    machine.run(*run, '--detach', '--name=server', IMAGE, *SERVE)
    address = machine.run('docker', 'inspect', '--format={{.NetworkSettings.IPAddress}}', 'server').stdout.strip()
    enable(machine, SLICE, '--other-namespaces')
    try:
        assert redirected(ask(machine, *run, '--rm', IMAGE, *asking(address, SERVER_PORT)))
    finally:
        machine.run('sockaccelctl', 'disable', SLICE)
        machine.run('docker', 'rm', '--force', 'server')
