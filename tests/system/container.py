# SPDX-License-Identifier: GPL-2.0-or-later
"""A booted container: a Debian root with systemd as PID 1, on the running kernel, gone without a trace."""

import os
import select
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.support.harness import Cgroup
from tests.support.patience import LONG_S, PATIENCE_S

# On hosts where systemd is not PID 1, or cgroups are those of both versions, systemd-nspawn needs the world to
# look as it expects; all of this is in a mount namespace that goes away with the container.
_PREPARE = """
work=$1 lower=$2
shift 2
mount -t tmpfs -o mode=755 tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root" "$work/bpf"
mount -t overlay -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
mount -t bpf bpf "$work/bpf"
mount -t tmpfs -o mode=755 tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec systemd-nspawn --directory="$work/root" --bind="$work/bpf:/sys/fs/bpf" "$@"
"""
# Where programs look for the system bus, if it is not in its usual place.
_BUS = 'DBUS_SYSTEM_BUS_ADDRESS'
_OPTIONS = (
    '--quiet', '--boot', '--register=no', '--keep-unit', '--notify-ready=yes', '--console=pipe',
    '--private-network', '--link-journal=no', '--resolv-conf=off', '--timezone=off', '--capability=all',
    # bpf() is refused without this, whatever the capabilities.
    '--system-call-filter=@privileged bpf perf_event_open keyctl',
)  # fmt: skip


class Container:
    """A context manager; all changes to the root are in memory.

    root: a directory that is not changed. binds: directories of the host, by their place in the container; those
    of `writable` may be written to.
    """

    def __init__(self, root: Path, binds: dict[str, Path], writable: frozenset[str] = frozenset()) -> None:
        self._root = root
        self._binds = [
            f'--bind{"" if inside in writable else "-ro"}={outside}:{inside}' for inside, outside in binds.items()
        ]

    def __enter__(self) -> Self:
        # Not below /tmp, which nspawn covers; not long, for the socket's name.
        self._directory = tempfile.TemporaryDirectory(prefix='sockaccel-container-', dir='/var/tmp')
        self._cgroup = Cgroup(f'sockaccel-container-{os.getpid()}')
        work = Path(self._directory.name, 'root')
        work.mkdir()
        self.console = Path(self._directory.name, 'console')
        notified = Path(self._directory.name, 'notify')
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
            self.console.open('w') as console,
        ):
            notify.bind(str(notified))
            self._process = subprocess.Popen(
                [
                    # Not even a test run that is killed leaves it behind.
                    'setpriv', '--pdeathsig=KILL', '--', 'unshare', '--mount', '--pid', '--fork', '--kill-child',
                    '--mount-proc', '--propagation=private', '--', 'sh', '-euc', _PREPARE, 'sh', work,
                    self._root, *_OPTIONS, *self._binds,
                ],
                env={**os.environ, 'NOTIFY_SOCKET': str(notified), 'SYSTEMD_NSPAWN_UNIFIED_HIERARCHY': '1'},
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                preexec_fn=self._cgroup.enter,
            )  # fmt: skip
            try:
                self._wait(notify)
            except BaseException:
                self.__exit__()
                raise
        (nspawn,) = _children(self._process.pid)
        (self.leader,) = _children(nspawn)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._cgroup.remove()
        self._directory.cleanup()

    def _wait(self, notify: socket.socket) -> None:
        """Until systemd says that the container has booted. Raises AssertionError with the console's text."""
        ended = os.pidfd_open(self._process.pid)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(notify, select.POLLIN)
        try:
            while True:
                happened = dict(poll.poll(PATIENCE_S * 1000))
                assert notify.fileno() in happened, f'the container did not boot: {self.console.read_text()}'
                if 'READY=1' in notify.recv(4096).decode().splitlines():
                    return
        finally:
            os.close(ended)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as a service of the container: one that only entered it would stay in our cgroup.

        It knows no bus of ours: other tests of the same run have one in their environment.

        Raises AssertionError with its output if it fails and `check` is set.
        """
        result = subprocess.run(
            [
                'nsenter', f'--target={self.leader}', '--all', '--', 'systemd-run', '--quiet', '--pipe', '--wait',
                '--collect', '--setenv=DEBIAN_FRONTEND=noninteractive', f'--setenv=CI={os.environ.get("CI", "")}',
                '--', *command,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            timeout=LONG_S, env={name: text for name, text in os.environ.items() if name != _BUS},
        )  # fmt: skip
        assert not check or result.returncode == 0, f'{" ".join(command)}: {result.returncode}\n{result.stdout}'
        return result


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]
