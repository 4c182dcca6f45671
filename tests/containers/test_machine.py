# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian 13 with systemd, Podman, Docker and sockaccel, where units and slices are what is enabled.

It is a booted container of tests/system, with engines in it, which see nothing but cgroup2.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.room import SERVE, SERVER_PORT, answer, asking, image
from tests.containers.test_docker import redirected
from tests.support.harness import ROOT
from tests.support.patience import LONG_S
from tests.system import roots
from tests.system.container import Container

# The first test may make the machine's root before.
pytestmark = pytest.mark.timeout(2 * LONG_S)
PACKAGES = (
    'podman', 'runc', 'netavark', 'aardvark-dns', 'passt', 'catatonit', 'nftables', 'iptables', 'docker.io',
    'docker-cli',
)  # fmt: skip
IMAGE = 'localhost/sockaccel-test'
PUBLISHED = 8_080
# Of this repository in the machine.
SOURCE = Path('/src')
PROGRAMS = SOURCE / 'tests' / 'containers'
VOLUMES = ('--volume=/usr:/usr:ro', f'--volume={PROGRAMS}:/talk:ro')
SLICE = 'app.slice'
FILES = {
    '/etc/containers/storage.conf': """\
[storage]
driver = "vfs"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
""",
    # Some machines let not even root raise a limit, which crun does.
    '/etc/containers/containers.conf': """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
pids_limit = 0
[engine]
runtime = "runc"
""",
    '/etc/docker/daemon.json': """\
{"storage-driver": "vfs", "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 1024}}}
""",
    '/etc/containers/systemd/app.container': f"""\
[Container]
ContainerName=app
Image={IMAGE}
Volume=/usr:/usr:ro
Volume={PROGRAMS}:/talk:ro
Exec={' '.join(SERVE)}
PublishPort={PUBLISHED}:{SERVER_PORT}

[Service]
Slice={SLICE}
""",
}
INSTALL = f"""
cd {SOURCE}
make --silent install NOTIFY_RELOAD=yes
systemd-sysusers
systemctl daemon-reload
systemctl reload dbus
systemctl restart docker
systemctl start sockaccel
podman import /run/files/image {IMAGE}
docker import /run/files/image {IMAGE}
"""


@pytest.fixture(scope='module')
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    files = tmp_path_factory.mktemp('files')
    (files / 'image').write_bytes(image())
    script = ['set -eux']
    for number, (path, text) in enumerate(FILES.items()):
        (files / str(number)).write_text(text)
        script.append(f'install -D -m 644 /run/files/{number} {path}')
    release = next(release for release in roots.RELEASES if release.name == 'trixie')
    root = roots.root(release, 'containers', PACKAGES)
    with Container(root, {str(SOURCE): ROOT, '/run/files': files}) as container:
        container.run('sh', '-c', '\n'.join(script) + INSTALL)
        yield container


def enable(machine: Container, target: str, *options: str) -> None:
    machine.run('sockaccelctl', 'enable', target, '--accept=fionread', '--accept=splice', *options)


def ask(machine: Container, *command: str) -> dict[str, int]:
    """The ways of the messages that a client sends which the command starts."""
    return answer(machine.run(*command).stdout.strip().splitlines()[-1])


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
