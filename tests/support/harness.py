# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests and the demo need around a daemon: a cgroup, a bus, a process that says when it is ready."""

import asyncio
import contextlib
import ctypes
import errno
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sockaccel.core.cgroup import cgroup2_mount
from sockaccel.ctl.client import Client, NotRunning, boolean, strings
from sockaccel.dbus.message import Variant
from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
# How long what is left is looked at by id alone.
UNNAMED_FOR_S = min(10.0, PATIENCE_S)
# Where the package puts what a work tree has.
_INSTALLED = {'sockaccel': '/usr/lib/python3/dist-packages/sockaccel', 'bpf': '/usr/share/sockaccel/bpf'}
OUR_NAMES = ('sockaccel_', 'bpf_iter__', 'sa_')

_BUS_CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={directory}/bus</listen>
  <auth>EXTERNAL</auth>
  <limit name="max_replies_per_connection">4096</limit>
  {policy}
</busconfig>
"""
_EVERYTHING = """\
<policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>"""


class Cgroup:
    """A cgroup of our own below the cgroup2 mount, or below another; gone at the end, with all that is in it."""

    def __init__(self, name: str, parent: 'Cgroup | None' = None) -> None:
        self.mount = cgroup2_mount()
        self.directory: Path = (parent.directory if parent else self.mount) / name
        self.directory.mkdir()

    @property
    def path(self) -> str:
        return f'/{self.directory.relative_to(self.mount)}'

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.remove()

    def remove(self) -> None:
        """End what still runs in it and remove it, with all that is nested. Raises OSError, AssertionError."""
        wait_until(lambda: _removed(self.directory), f'the processes of "{self.directory}" end')

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that this process opens meanwhile belong to the cgroup for life."""
        before = _own_cgroup(self.mount)
        (self.directory / 'cgroup.procs').write_text(str(os.getpid()))
        try:
            yield
        finally:
            (before / 'cgroup.procs').write_text(str(os.getpid()))

    def enter(self) -> None:
        """For Popen's preexec_fn."""
        (self.directory / 'cgroup.procs').write_text(str(os.getpid()))


def _own_cgroup(mount: Path) -> Path:
    line = next(line for line in Path('/proc/self/cgroup').read_text().splitlines() if line.startswith('0::'))
    return mount / line[3:].lstrip('/')


def _removed(top: Path) -> bool:
    """End what runs in a cgroup and those below, and remove them; False if somebody has not ended yet."""
    for directory, _names, _files in os.walk(top, topdown=False):
        try:
            for pid in Path(directory, 'cgroup.procs').read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            os.rmdir(directory)
        except OSError as exc:
            # ENOENT, ENODEV: a container's systemd removes its own too. EBUSY: a process is not gone yet, which
            # cgroup.procs need not show any more, or it has made another cgroup below meanwhile.
            if exc.errno == errno.EBUSY:
                return False
            if exc.errno not in (errno.ENOENT, errno.ENODEV):
                raise
    return True


def wait_until(condition: Any, what: str, seconds: float = PATIENCE_S) -> None:
    """For what the kernel does later and tells nobody of (RCU, work queues). Raises AssertionError."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f'waited {seconds} s in vain that {what}'
        time.sleep(0.01)


class PrivateBus:
    """A dbus-daemon of our own, in the place of the system bus. policy: elements of its configuration."""

    def __init__(self, policy: str = _EVERYTHING) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix='sockaccel-bus-')
        config = Path(self._directory.name, 'bus.conf')
        config.write_text(_BUS_CONFIG.format(directory=self._directory.name, policy=policy))
        # Users other than root connect to it too.
        Path(self._directory.name).chmod(0o755)
        self._process = subprocess.Popen(
            ['dbus-daemon', f'--config-file={config}', '--nofork', '--print-address=1'],
            stdout=subprocess.PIPE,
            # Where it may not raise its own limit of open files it says so.
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout
        # It is listening once it has printed its address.
        self.address = self._process.stdout.readline().strip()
        assert self.address, 'dbus-daemon did not start'

    def __enter__(self) -> Self:
        self._before = os.environ.get('DBUS_SYSTEM_BUS_ADDRESS')
        os.environ['DBUS_SYSTEM_BUS_ADDRESS'] = self.address
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._before is None:
            del os.environ['DBUS_SYSTEM_BUS_ADDRESS']
        else:
            os.environ['DBUS_SYSTEM_BUS_ADDRESS'] = self._before
        self.stop()
        assert self._process.stdout
        self._process.stdout.close()
        self._directory.cleanup()

    def stop(self) -> None:
        """End it before its users have left; again is no harm."""
        stop(self._process)


def stop(process: subprocess.Popen[Any], number: int = signal.SIGTERM) -> int:
    """End a child and wait for it; returns its exit status. Raises TimeoutExpired after a SIGKILL if it hangs."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.wait(PATIENCE_S)
    finally:
        # Whatever keeps it from ending, it is not left behind.
        if process.poll() is None:
            process.kill()
            process.wait()


# Lets a process find fds as systemd hands them over (sd_listen_fds(3)).
_HAND_OVER = """\
import fcntl, os, sys
count = int(sys.argv[1])
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 200) for fd in sys.argv[2:2 + count]]
for number, fd in enumerate(high, 3):
    os.dup2(fd, number)
os.closerange(3 + count, 1024)
os.environ['LISTEN_PID'] = str(os.getpid())
os.execvp(sys.argv[2 + count], sys.argv[2 + count:])
"""


class FdStore:
    """What systemd keeps of a unit: fds by name. A context manager that closes them."""

    def __init__(self) -> None:
        self.fds: dict[str, int] = {}
        self.faults: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.clear()

    def clear(self) -> None:
        """As when the unit is stopped."""
        self.obey(['FDSTOREREMOVE=1', *(f'FDNAME={name}' for name in self.fds)], [])

    def obey(self, lines: list[str], fds: list[int]) -> None:
        """One message to the notify socket."""
        names = [line.partition('=')[2] for line in lines if line.startswith('FDNAME=')]
        if 'FDSTOREREMOVE=1' in lines:
            for name in names:
                if name in self.fds:
                    os.close(self.fds.pop(name))
        elif 'FDSTORE=1' in lines:
            if 'FDPOLL=0' not in lines or names[0] in self.fds:
                self.faults.append(f'{lines}: systemd would drop the fd, or keep two of the name')
            self.fds[names[0]] = fds.pop()
        for fd in fds:
            os.close(fd)


class Daemon:
    """A daemon process; `ready()` returns when it has told so, or fails with what it said.

    notified: what it told the notify socket, each READY=, STATUS=, STOPPING= line. state: the directory for what
    it remembers, None for one of its own. store: where systemd keeps fds for the next daemon, None where it closes
    them. systemd: whether there is a notify socket; without, it is ready when its bus name has an owner.
    """

    def __init__(
        self,
        cgroup_root: str | None,
        settings: str = '',
        *,
        command: tuple[str, ...] = (sys.executable, '-m', 'sockaccel'),
        directory: Path = ROOT,
        state: Path | None = None,
        store: FdStore | None = None,
        systemd: bool = True,
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix='sockaccel-daemon-')
        Path(self._directory.name).chmod(0o755)
        self._root = f'CgroupRoot={cgroup_root}\n' if cgroup_root else ''
        self.config = Path(self._directory.name, 'sockaccel.conf')
        self.configure(settings)
        # As it is shipped; a test may write another one here and reload.
        self.programs = Path(self._directory.name, 'programs.conf')
        self.programs.write_text((ROOT / 'packaging' / 'programs.conf').read_text())
        self.state = state or Path(self._directory.name)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify = f'{self._directory.name}/notify'
        self._notify.bind(notify)
        # recv_fds() of Python 3.11 ignores its flags.
        self._notify.setblocking(False)
        Path(notify).chmod(0o777)
        self._hearing = threading.Lock()
        self._closing = os.eventfd(0, os.EFD_CLOEXEC)
        self._news = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.log = Path(self._directory.name, 'log')
        self.notified: list[str] = []
        self._store = FdStore() if store is None else store
        self._keeps = store is not None
        self._systemd = systemd
        kept = self._store.fds
        if kept:
            numbers = [str(fd) for fd in kept.values()]
            command = (sys.executable, '-S', '-E', '-c', _HAND_OVER, str(len(kept)), *numbers, *command)
        handed = {'LISTEN_FDS': str(len(kept)), 'LISTEN_FDNAMES': ':'.join(kept)}
        self.started = time.monotonic()
        with self.log.open('w') as log:
            self.process = subprocess.Popen(
                [*command, '--config', str(self.config), '--programs', str(self.programs)],
                cwd=directory,
                env={**os.environ, **({'NOTIFY_SOCKET': notify} if systemd else {}), **handed, **self._state()},
                pass_fds=kept.values(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        """As systemd does, so that the daemon never waits."""
        poll = select.poll()
        poll.register(self._notify, select.POLLIN)
        poll.register(self._closing, select.POLLIN)
        while self._closing not in dict(poll.poll()):
            self.heard()
            os.eventfd_write(self._news, 1)

    def _state(self) -> dict[str, str]:
        """Directories for what it remembers; those of this machine's own daemon stay untouched."""
        made = {}
        for kind in ('STATE', 'RUNTIME'):
            path = self.state / kind.lower()
            path.mkdir(exist_ok=True)
            # Some tests run it as another user.
            path.chmod(0o777)
            made[f'{kind}_DIRECTORY'] = str(path)
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
        self.close()

    def ready(self) -> Self:
        """Wait for READY=1; AssertionError with the log if the process ends before."""
        if not self._systemd:
            wait_until(self._answers, 'the daemon answers')
            self.ready_after = time.monotonic() - self.started
            return self
        ended = os.pidfd_open(self.process.pid)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(self._news, select.POLLIN)
        try:
            while not any(line == 'READY=1' for line in self.notified):
                happened = dict(poll.poll(PATIENCE_S * 1000))
                assert happened, f'not ready within {PATIENCE_S} s: {self.log.read_text()}'
                if self._news not in happened:
                    raise AssertionError(f'the daemon ended before it was ready: {self.log.read_text()}')
                os.eventfd_read(self._news)
        finally:
            os.close(ended)
        self.ready_after = time.monotonic() - self.started
        return self

    def _answers(self) -> bool:
        assert self.process.poll() is None, f'the daemon ended before it was ready: {self.log.read_text()}'
        try:
            call('Stats')
        except NotRunning:
            return False
        return True

    def configure(self, settings: str) -> None:
        self.config.write_text(f'[Sockaccel]\n{self._root}{settings}')

    def list_programs(self, text: str) -> None:
        """Put another list of programs in force."""
        self.programs.write_text(text)
        call('Reload')

    def reload(self) -> None:
        """SIGHUP; returns when the daemon says that it is done."""
        done = self.heard().count('READY=1')
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.heard().count('READY=1') > done, 'the daemon has reloaded')

    def heard(self) -> list[str]:
        """Everything told to the notify socket so far."""
        with self._hearing, contextlib.suppress(BlockingIOError):
            while True:
                data, fds, _flags, _address = socket.recv_fds(self._notify, 4096, 1)
                lines = data.decode().splitlines()
                if lines[0].startswith('FDSTORE'):
                    self._store.obey(lines, fds)
                    if not self._keeps:
                        self._store.clear()
                else:
                    self.notified += lines
        return self.notified

    @property
    def log_text(self) -> str:
        """What it has logged; once it is closed, all of it."""
        return self.log.read_text() if self.log.exists() else self._last_words

    def resident(self) -> int:
        """Resident memory in KiB."""
        status = Path(f'/proc/{self.process.pid}/status').read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith('VmRSS')))

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def stop(self, number: int = signal.SIGTERM) -> int:
        return stop(self.process, number)

    def close(self) -> None:
        self._last_words = self.log.read_text()
        os.eventfd_write(self._closing, 1)
        self._listener.join()
        os.close(self._closing)
        os.close(self._news)
        self.heard()
        self._notify.close()
        self._directory.cleanup()
        assert not self._store.faults


def copy_code(directory: Path) -> None:
    """Put the daemon's code into a directory, as a work tree has it; that of the package where there is none."""
    for name, installed in _INSTALLED.items():
        source = ROOT / name
        shutil.copytree(source if source.exists() else installed, directory / name)


def call(member: str, signature: str = '', *arguments: Any) -> Any:
    """Call a method of the running daemon. Raises what sockaccel.ctl.client raises."""

    async def once() -> Any:
        async with Client() as client:
            return await client.call(member, signature, *arguments)

    return asyncio.run(once())


def enable(target: str, *issues: str, wait: bool = False, **policy: str) -> None:
    """policy: keys of the target's policy, with values as a file has them."""
    chosen = {key: Variant('s', value) for key, value in policy.items()}
    accepted = strings(list(issues))
    call('EnableWithOptions', 'sa{sv}', target, {'AcceptKernelIssues': accepted, 'wait': boolean(wait), **chosen})


def every_issue() -> list[str]:
    """The names of the issues that this kernel has."""
    return [finding['name'] for finding in call('ListFindings') if finding['severity'] == 'issue']


def enable_by_command(cgroup: Cgroup, *options: str) -> str:
    """With sockaccelctl, whatever issues this kernel has; what it printed."""
    ended = control('enable', *(f'--accept={name}' for name in every_issue()), *options, cgroup.path)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def targets() -> list[tuple[str, str, str]]:
    """Name, state and detail of each target."""
    return [(row['name'], row['state'], row['detail']) for row in call('ListTargets')]


def connections(**wanted: Variant) -> list[dict[str, Any]]:
    """Every row of ListConnections. wanted: its filter."""

    async def once() -> list[dict[str, Any]]:
        async with Client() as client:
            rows, total, listing = await client.call('ListConnections', 'a{sv}tt', wanted, 0, 0)
            while len(rows) < total:
                rows += (await client.call('ListConnections', 'a{sv}tt', {}, listing, len(rows)))[0]
            return list(rows)

    return asyncio.run(once())


def control(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run sockaccelctl."""
    return subprocess.run(
        [sys.executable, '-m', 'sockaccel.ctl.cli', *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def objects() -> dict[str, set[int]]:
    """The ids of all BPF programs, maps and links of this host, and the inodes of all pins.

    By id alone: opening a tail-call array that is about to be freed, as bpftool does to name it, can make the
    kernel leak it (prog_array_map_clear() in kernel/bpf/arraymap.c schedules the same work twice).
    """
    pins = {path.stat().st_ino for path in Path('/sys/fs/bpf').rglob('*')}
    return {kind: _ids(kind) for kind in ('prog', 'map', 'link')} | {'pin': pins}


def _ids(kind: str) -> set[int]:
    following = getattr(ctypes.CDLL('libbpf.so.1', use_errno=True), f'bpf_{kind}_get_next_id')
    found, number = set(), ctypes.c_uint32(0)
    while following(number, ctypes.byref(number)) == 0:
        found.add(number.value)
    return found


def new_objects(before: dict[str, set[int]]) -> dict[str, set[int]]:
    """What is there now and was not before, whoever's it is."""
    after = objects()
    return {kind: new for kind in after if (new := after[kind] - before[kind])}


@dataclass(frozen=True)
class Surroundings:
    """What is there: BPF objects, children of this process, cgroups of tests and demos."""

    objects: dict[str, set[int]]
    children: set[int]
    cgroups: set[str]

    @classmethod
    def now(cls) -> Self:
        return cls(objects(), children(), cgroups())

    def left(self) -> str:
        """What of ours is there now and was not then, '' if nothing; waits while the kernel frees things."""

        def nothing() -> bool:
            return not (new_objects(self.objects) or children() - self.children or cgroups() - self.cgroups)

        def ours() -> str:
            found = {
                'objects': _named_as_ours(new_objects(self.objects)),
                'processes': children() - self.children,
                'cgroups': cgroups() - self.cgroups,
            }
            return ', '.join(f'{kind} {left}' for kind, left in found.items() if left)

        # By name only what has been there for a while, see objects(): whoever else uses the machine has some too.
        with contextlib.suppress(AssertionError):
            wait_until(nothing, 'the kernel frees what closed sockets held', UNNAMED_FOR_S)
            return ''
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not ours(), 'the kernel frees what is ours')
            return ''
        return ours()

    def clear(self) -> None:
        """End the processes and remove the cgroups that were left, so that no later test is blamed for them."""
        for pid in children() - self.children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        mount = cgroup2_mount()
        for path in sorted(cgroups() - self.cgroups):
            wait_until(lambda path=path: _removed(mount / path), f'the processes of "{path}" end')


def _named_as_ours(left: dict[str, set[int]]) -> list[str]:
    """Those of some left objects that bear our names, links by their programs; and all pins."""
    found = [f'pin {number}' for number in left.get('pin', ())]
    for kind in ('prog', 'map', 'link'):
        for number in left.get(kind, ()):
            name = _name('prog', _shown(kind, number).get('prog_id', 0)) if kind == 'link' else _name(kind, number)
            if name.startswith(OUR_NAMES):
                found.append(f'{kind} {number} {name}')
    return found


def _name(kind: str, number: int) -> str:
    return str(_shown(kind, number).get('name', ''))


def _shown(kind: str, number: int) -> dict[str, Any]:
    command = ['bpftool', '--json', kind, 'show', 'id', str(number)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    return dict(json.loads(shown.stdout)) if shown.returncode == 0 else {}


def children() -> set[int]:
    """Our own children that have not been waited for."""
    found: set[int] = set()
    for task in Path('/proc/self/task').iterdir():
        # A thread may end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.update(int(pid) for pid in (task / 'children').read_text().split())
    return found


def cgroups() -> set[str]:
    """The cgroups of tests and demos."""
    return {
        f'{directory}/{name}'
        for directory, names, _files in os.walk(cgroup2_mount())
        for name in names
        if name.startswith('sockaccel-')
    }
