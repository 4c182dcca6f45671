# SPDX-License-Identifier: GPL-2.0-or-later
"""A place where container engines run as on a host of their own, gone without a trace.

They see a network, mounts and processes that nobody else sees, and cgroups of version 2 alone, as hosts have them
now; the cgroups are the machine's. So the engines need no settings of ours, and their rules for nftables and
their state end with the room.
"""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Self

from tests.support.harness import Cgroup
from tests.support.patience import LONG_S, PATIENCE_S

HERE = Path(__file__).resolve().parent
_PREPARE = """
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /var/lib/docker /var/lib/containers
mount -t tmpfs tmpfs /var/lib/docker
mount -t tmpfs tmpfs /var/lib/containers
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
echo ready
exec tini -- sleep infinity
"""
# What a container needs beside the machine's own /usr, which it is shown.
_DIRECTORIES = ('usr', 'proc', 'sys', 'dev', 'tmp', 'etc', 'run', 'talk')
_LINKS = {name: f'usr/{name}' for name in ('bin', 'sbin', 'lib', 'lib64')}
IMAGE = 'sockaccel-test'
# Options of "docker run" and "podman run" with the image.
VOLUMES = ('--volume=/usr:/usr:ro', f'--volume={HERE}:/talk:ro')
SERVER_PORT = 9_000
SERVE = ('python3', '/talk/talk.py', 'serve', str(SERVER_PORT))


class Room:
    """A context manager. cgroup: where the engines run, outside every target."""

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                # Not even a test run that is killed leaves it behind.
                'setpriv', '--pdeathsig=KILL', '--', 'unshare', '--mount', '--net', '--pid', '--fork',
                '--kill-child', '--mount-proc', '--propagation=private', '--', 'sh', '-euc', _PREPARE,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=self._cgroup.enter,
        )  # fmt: skip
        assert self._process.stdout
        ready = self._process.stdout.readline()
        assert ready == b'ready\n', 'the place for container engines could not be prepared'
        pid = self._process.pid
        (self._leader,) = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()

    def entering(self, *command: str) -> list[str]:
        """The command line that runs a command inside."""
        return ['nsenter', f'--target={self._leader}', '--mount', '--net', '--pid', '--', *command]

    def run(
        self,
        *command: str,
        cgroup: Cgroup | None = None,
        environment: dict[str, str] | None = None,
        data: bytes = b'',
    ) -> str:
        """Run a command inside to its end. Raises AssertionError with its output if it fails."""
        done = subprocess.run(
            self.entering(*command),
            input=data, capture_output=True, timeout=LONG_S, check=False,
            env={**os.environ, **(environment or {})}, preexec_fn=(cgroup or self._cgroup).enter,
        )  # fmt: skip
        assert done.returncode == 0, (
            f'{" ".join(command)}: {done.returncode}\n{(done.stdout + done.stderr).decode()}'
        )
        return done.stdout.decode().strip()

    def start(self, *command: str) -> None:
        """Start a service that says READY=1 (sd_notify(3)); it ends with the room. Raises AssertionError."""
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix='sockaccel-engine-')))
        log = directory / 'log'
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, log.open('wb') as file:
            notify.bind(str(directory / 'notify'))
            notify.settimeout(PATIENCE_S)
            process = subprocess.Popen(
                self.entering(*command),
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, preexec_fn=self._cgroup.enter,
                env={**os.environ, 'NOTIFY_SOCKET': str(directory / 'notify')},
            )  # fmt: skip
            self._stack.callback(process.wait)
            self._stack.callback(process.terminate)
            try:
                while 'READY=1' not in notify.recv(4096).decode().splitlines():
                    pass
            except TimeoutError:
                raise AssertionError(f'{command[0]} does not start: {log.read_text()}') from None

    def ask(self, host: str, port: int, cgroup: Cgroup, seconds: float = PATIENCE_S) -> dict[str, int]:
        """Let a program of the host ask a server; the ways that its messages went."""
        return answer(self.run(*asking(host, port, HERE / 'talk.py', seconds), cgroup=cgroup))


def asking(
    host: str, port: int, program: Path = Path('/talk/talk.py'), seconds: float = PATIENCE_S
) -> tuple[str, ...]:
    return ('python3', str(program), 'ask', host, str(port), str(seconds))


def answer(printed: str) -> dict[str, int]:
    ways: dict[str, int] = json.loads(printed)
    return ways


def image() -> bytes:
    """The image, as "import" of the engines takes it: empty directories, and links into /usr."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode='w') as tar:
        for name in _DIRECTORIES:
            entry: Any = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, to in _LINKS.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, to
            tar.addfile(entry)
    return made.getvalue()
