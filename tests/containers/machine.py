# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian 13 with systemd, Podman, Docker and sockaccel, which sees nothing but cgroup2.

It is a booted container of tests/system with engines in it.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.room import SERVE, SERVER_PORT, answer, image
from tests.support import envoy
from tests.support.harness import ROOT
from tests.system import roots
from tests.system.container import Container

PACKAGES = (
    'podman', 'runc', 'netavark', 'aardvark-dns', 'passt', 'catatonit', 'nftables', 'iptables', 'docker.io',
    'docker-cli',
)  # fmt: skip
IMAGE = 'localhost/sockaccel-test'
PUBLISHED = 8_080
# Of this repository in the machine.
SOURCE = Path('/src')
PROGRAMS = SOURCE / 'tests' / 'containers'
# Other files of the test run there, and the directory of Envoy's program.
GIVEN, ENVOY = Path('/run/files'), Path('/opt/envoy')
# Options of "docker run" and "podman run" with the image.
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
    # docs/sidecar.md
    '/etc/systemd/system/docker.service.d/sockaccel.conf': """\
[Service]
ExecStartPost=chmod a+x /run/docker
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
# Docker lets nothing be forwarded that it does not know, and with br_netfilter that is also what passes between
# two containers on Podman's bridge. DOCKER-USER is the chain for exceptions.
INSTALL = f"""
cd {SOURCE}
make --silent install NOTIFY_RELOAD=yes
systemd-sysusers
systemctl daemon-reload
systemctl reload dbus
systemctl restart docker
iptables --insert DOCKER-USER --in-interface podman0 --out-interface podman0 --jump ACCEPT
systemctl start sockaccel
podman import {GIVEN}/image {IMAGE}
docker import {GIVEN}/image {IMAGE}
"""


@pytest.fixture(scope='session')
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    files = tmp_path_factory.mktemp('files')
    (files / 'image').write_bytes(image())
    for name in ('inbound', 'outbound'):
        # Docker's containers have no ::1 by default.
        (files / f'{name}.json').write_text(json.dumps(envoy.configuration(name, ipv6=False)))
    script = ['set -eux']
    for number, (path, text) in enumerate(FILES.items()):
        (files / str(number)).write_text(text)
        script.append(f'install -D -m 644 {GIVEN}/{number} {path}')
    release = next(release for release in roots.RELEASES if release.name == 'trixie')
    root = roots.root(release, 'containers', PACKAGES)
    binds = {str(SOURCE): ROOT, str(GIVEN): files, str(ENVOY): envoy.program().parent}
    with Container(root, binds) as container:
        container.run('sh', '-c', '\n'.join(script) + INSTALL)
        yield container


def ask(machine: Container, *command: str) -> dict[str, int]:
    """The ways of the messages that a client sends which the command starts."""
    return answer(machine.run(*command).stdout.strip().splitlines()[-1])
