# SPDX-License-Identifier: GPL-2.0-or-later
"""Docker and Podman, each in a room of its own."""

from tests.containers.room import IMAGE, SERVE, VOLUMES, Room, answer, asking, image
from tests.support.harness import Cgroup
from tests.support.patience import PATIENCE_S

_SOCKET = 'unix:///run/docker.sock'
# Some machines let not even root raise a limit.
_PODMAN = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
pids_limit = 0
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
"""
_PODMAN_FILE = '/run/sockaccel-test-containers.conf'


class Engine:
    """What both have in common; they take the same arguments."""

    def __init__(self, room: Room, *command: str, environment: dict[str, str] | None = None) -> None:
        self._room = room
        self._command = command
        self._environment = environment
        self.call('import', '-', IMAGE, data=image())

    def call(self, *arguments: str, data: bytes = b'') -> str:
        """Raises AssertionError with the output if it fails."""
        return self._room.run(*self._command, *arguments, environment=self._environment, data=data)

    def serve(self, name: str, parent: Cgroup, *options: str) -> str:
        """Start a container that serves; its address."""
        parents = f'--cgroup-parent={parent.path}'
        self.call('run', '--detach', f'--name={name}', parents, *VOLUMES, *options, IMAGE, *SERVE)
        return self.call('inspect', '--format={{.NetworkSettings.IPAddress}}', name)

    def ask(
        self, host: str, port: int, parent: Cgroup, *options: str, seconds: float = PATIENCE_S
    ) -> dict[str, int]:
        """Let a container ask a server; the ways that its messages went."""
        parents = f'--cgroup-parent={parent.path}'
        asked = asking(host, port, seconds=seconds)
        return answer(self.call('run', '--rm', parents, *VOLUMES, *options, IMAGE, *asked))

    def remove(self, name: str) -> None:
        # A program that is its container's first process need not obey SIGTERM.
        self.call('kill', name)
        self.call('rm', '--force', name)


class Docker(Engine):
    def __init__(self, room: Room, *options: str) -> None:
        storage = ('--storage-driver=vfs', '--default-ulimit=nofile=1024:1024')
        room.start('dockerd', f'--host={_SOCKET}', *storage, *options)
        super().__init__(room, 'docker', f'--host={_SOCKET}')


class Podman(Engine):
    def __init__(self, room: Room) -> None:
        room.run('tee', _PODMAN_FILE, data=_PODMAN.encode())
        super().__init__(room, 'podman', '--storage-driver=vfs', environment={'CONTAINERS_CONF': _PODMAN_FILE})
