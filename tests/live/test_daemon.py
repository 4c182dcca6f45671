# SPDX-License-Identifier: GPL-2.0-or-later
"""The process: how it starts, what stops it from starting, what it leaves."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import bcc
import pytest

from sockaccel.core.cgroup import cgroup2_mount
from tests.support import harness, traffic
from tests.support.harness import Cgroup, Daemon, PrivateBus
from tests.support.tracing import Trace
from tests.support.traffic import exchange, fill, pair, read, write

PYTHON = sys.executable


@pytest.fixture
def own_bus() -> Iterator[PrivateBus]:
    with PrivateBus() as bus:
        yield bus


@pytest.fixture
def root(own_bus: PrivateBus) -> Iterator[Cgroup]:
    with Cgroup(f'sockaccel-daemon-{os.getpid()}') as cgroup:
        yield cgroup


def fails(cgroup: Cgroup, *command: str, settings: str = '', directory: Path = harness.ROOT) -> str:
    """Start a daemon that must not start; returns the one sentence that it says."""
    before = harness.Surroundings.now()
    command = command or (PYTHON, '-m', 'sockaccel')
    with Daemon(cgroup.path, settings, command=command, directory=directory) as daemon:
        status = daemon.wait()
        said = daemon.log.read_text()
    assert status not in (0, 2, -signal.SIGSEGV), said
    assert 'Traceback' not in said
    # The kernel frees maps in a work queue.
    assert not before.left()
    lines = [line for line in said.splitlines() if 'Cannot go on' in line]
    assert len(lines) == 1, said
    return lines[0]


def test_ready_is_the_last_thing_it_says(root: Cgroup) -> None:
    with Daemon(root.path) as daemon:
        daemon.ready()
        assert harness.call('Stats')['connections'] == 0
        assert daemon.heard()[:2] == ['READY=1', 'STATUS=Idle: no targets. Add one with: sockaccelctl enable UNIT']
        harness.enable(root.path, *harness.every_issue())
        assert daemon.heard()[-1] == f'STATUS=Accelerating: {root.path} (active)'
        assert daemon.stop() == 0
        assert 'STOPPING=1' in daemon.heard()


def test_nothing_is_attached_without_a_target(root: Cgroup) -> None:
    with Daemon(root.path) as daemon:
        daemon.ready()
        shown = subprocess.run(
            ['bpftool', 'cgroup', 'show', root.directory], capture_output=True, text=True, check=True
        )
        assert 'sock_ops' not in shown.stdout
        harness.enable(root.path, *harness.every_issue())
        shown = subprocess.run(
            ['bpftool', 'cgroup', 'show', root.directory], capture_output=True, text=True, check=True
        )
        assert 'sockaccel_join' in shown.stdout
        harness.call('Disable', 's', root.path)
        shown = subprocess.run(
            ['bpftool', 'cgroup', 'show', root.directory], capture_output=True, text=True, check=True
        )
        assert 'sock_ops' not in shown.stdout


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_unread_bytes_survive_the_end_of_the_daemon(root: Cgroup, number: int) -> None:
    before = harness.objects()['prog']
    with Daemon(root.path) as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        with pair(root) as made:
            exchange(made)
            redirected = harness.call('Stats')['redirected_bytes']
            write(made.client, b'unread;' * 100)
            assert harness.call('Stats')['redirected_bytes'] == redirected + 700
            loaded = harness.objects()['prog'] - before
            daemon.stop(number)
            harness.wait_until(
                lambda: len(harness.objects()['prog'] & loaded) == 1, 'only what sockets hold is left'
            )
            if number != signal.SIGKILL:
                server, client = traffic.ports(made.server)
                who = f'127.0.0.1:{server} -> 127.0.0.1:{client} (python'
                assert f'until they are closed: {who}' in daemon.log_text
            write(made.client, b'after the end')
            assert read(made.server, 713) == b'unread;' * 100 + b'after the end'
            exchange(made)


def test_after_stop_no_byte_is_redirected(root: Cgroup) -> None:
    with Daemon(root.path) as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        with pair(root) as made:
            exchange(made)
            daemon.stop()
            before = traffic.sent_by_tcp(made)
            exchange(made, rounds=20)
            assert traffic.sent_by_tcp(made) - before == 160


def test_disable_gives_connections_back_to_tcp(root: Cgroup) -> None:
    with Daemon(root.path) as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        with pair(root) as idle, pair(root) as unread:
            for made in (idle, unread):
                exchange(made)
            write(unread.client, b'unread')
            harness.call('Disable', 's', root.path)
            ((name, state, _detail),) = harness.targets()
            assert (name, state) == (root.path, 'draining')
            redirected = harness.call('Stats')['redirected_messages']
            exchange(idle)
            assert read(unread.server, 6) == b'unread'
            exchange(unread)
            assert harness.call('Stats')['redirected_messages'] == redirected
            harness.wait_until(lambda: not harness.targets(), 'the last connection has drained')
            exchange(unread)
            exchange(idle)


def test_a_second_daemon_ends_and_touches_nothing(root: Cgroup) -> None:
    with Daemon(root.path) as daemon:
        daemon.ready()
        assert 'another sockaccel owns the bus name' in fails(root)
        assert harness.targets() == []


@pytest.fixture(scope='module')
def readable() -> Iterator[Path]:
    """The daemon where every user can read it, as an installed one is; a checkout may be for root alone."""
    with tempfile.TemporaryDirectory(prefix='sockaccel-readable-') as name:
        directory = Path(name)
        for part in ('sockaccel', 'bpf'):
            shutil.copytree(harness.ROOT / part, directory / part)
        subprocess.run(['chmod', '--recursive', 'a+rX', name], check=True)
        yield directory


def as_nobody(capabilities: set[str]) -> tuple[str, ...]:
    """The daemon as an ordinary user with nothing but some capabilities, under the distribution's Python."""
    added = ','.join(['-all', *(f'+{name}' for name in sorted(capabilities))])
    return (
        'setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', f'--inh-caps={added}',
        f'--ambient-caps={added}', f'--bounding-set={added}', '--no-new-privs',
        os.path.realpath(PYTHON), '-m', 'sockaccel',
    )  # fmt: skip


@pytest.mark.parametrize('missing', ['bpf', 'net_admin', 'perfmon', None])
def test_without_a_capability(root: Cgroup, readable: Path, missing: str | None) -> None:
    capabilities = {'bpf', 'net_admin', 'perfmon'} - {missing} if missing else set()
    said = fails(root, *as_nobody(capabilities), directory=readable)
    assert 'CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON' in said


def test_an_ordinary_user_with_three_capabilities_is_enough(root: Cgroup, readable: Path) -> None:
    command = as_nobody({'bpf', 'net_admin', 'perfmon'})
    with Daemon(root.path, command=command, directory=readable) as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        with pair(root) as made:
            exchange(made, rounds=10)
        assert harness.call('Stats')['redirected_messages'] > 0


def capabilities(daemon: Daemon) -> set[tuple[int, ...]]:
    """Effective, permitted, inheritable and ambient ones of each thread, and whether it can get new ones."""
    names = ('CapEff', 'CapPrm', 'CapInh', 'CapAmb', 'NoNewPrivs')
    found = set()
    for path in Path(f'/proc/{daemon.process.pid}/task').glob('*/status'):
        status = dict(line.split(':\t', 1) for line in path.read_text().splitlines())
        found.add(tuple(int(status[name], 16) for name in names))
    return found


@pytest.mark.parametrize('user', ['root', 'nobody'])
def test_once_it_is_ready_it_has_no_capability(root: Cgroup, readable: Path, user: str) -> None:
    """And needs none: to attach, find listeners, join, redirect, list, sweep, reload, detach and end."""
    command = as_nobody({'bpf', 'net_admin', 'perfmon'}) if user == 'nobody' else (PYTHON, '-m', 'sockaccel')
    with Daemon(root.path, command=command, directory=readable) as daemon:
        daemon.ready()
        # To write where another user has a directory.
        dac_override = 2 if user == 'root' else 0
        (daemon.state / 'state').chmod(0o700)
        os.chown(daemon.state / 'state', 65534, 65534)
        for _time in range(2):
            harness.enable(root.path, *harness.every_issue())
            with pair(root) as made:
                exchange(made, rounds=10)
                assert len(harness.connections()) == 1
            daemon.reload()
            harness.call('Disable', 's', root.path)
        assert harness.call('Stats')['redirected_messages'] > 0
        assert capabilities(daemon) == {(dac_override, dac_override, 0, 0, 1)}
        assert daemon.stop() == 0
        assert 'ignoring' not in daemon.log_text


def in_mount_namespace(script: str) -> tuple[str, ...]:
    return ('unshare', '--mount', 'sh', '-c', f'{script} && exec {PYTHON} -m sockaccel "$@"', 'sh')


def test_without_type_information(root: Cgroup) -> None:
    said = fails(root, *in_mount_namespace('mount -t tmpfs none /sys/kernel/btf'))
    assert 'CONFIG_DEBUG_INFO_BTF' in said


def test_without_cgroup2(root: Cgroup) -> None:
    said = fails(root, *in_mount_namespace(f'umount -l {root.mount}'))
    assert 'no cgroup2 file system is mounted' in said


def test_without_a_loopback_interface(root: Cgroup) -> None:
    """A start-up probe that fails, for real: a network namespace whose lo is down."""
    said = fails(root, 'unshare', '--net', PYTHON, '-m', 'sockaccel')
    assert 'loopback interface' in said


def test_without_bus(root: Cgroup) -> None:
    command = ('env', 'DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent/bus', PYTHON, '-m', 'sockaccel')
    assert 'cannot connect to the system bus' in fails(root, *command)


def test_without_bcc(root: Cgroup) -> None:
    said = fails(root, *in_mount_namespace(f'mount -t tmpfs none {Path(bcc.__file__).parent}'))
    assert 'python3-bpfcc' in said


def test_without_memory_for_the_compiler(root: Cgroup) -> None:
    said = fails(root, 'prlimit', f'--as={100 << 20}', PYTHON, '-m', 'sockaccel')
    assert 'cannot load the BPF compiler' in said
    assert 'MemoryMax=' in said
    assert 'python3-bpfcc' not in said


@contextlib.contextmanager
def memory_limit(megabytes: int) -> Iterator[Path]:
    """The cgroup.procs of a cgroup whose processes and BPF maps share so much memory."""
    v1 = Path('/sys/fs/cgroup/memory')
    if v1.is_dir():
        directory, name = v1 / f'sockaccel-limited-{os.getpid()}', 'memory.limit_in_bytes'
        directory.mkdir()
    else:
        mount = cgroup2_mount()
        if 'memory' not in (mount / 'cgroup.controllers').read_text().split():
            pytest.skip('this kernel has no memory controller')
        (mount / 'cgroup.subtree_control').write_text('+memory')
        directory, name = mount / f'sockaccel-limited-{os.getpid()}', 'memory.max'
        directory.mkdir()
        (directory / 'memory.oom.group').write_text('0')
    try:
        (directory / name).write_text(str(megabytes << 20))
        yield directory / 'cgroup.procs'
    finally:
        harness.wait_until(lambda: not (directory / 'cgroup.procs').read_text(), 'the processes end')
        directory.rmdir()


@pytest.mark.parametrize(
    ('megabytes', 'connections', 'expected'),
    [(80, 1000, 'the BPF loader was killed, as the kernel does for lack of memory'),
     (240, 4_000_000, 'it may have too little memory')],
    ids=['compiler', 'maps'],
)  # fmt: skip
def test_a_limit_of_memory_is_no_lack_of_capabilities(
    root: Cgroup, megabytes: int, connections: int, expected: str
) -> None:
    with memory_limit(megabytes) as procs:
        # On one CPU it loads with one process. Of two, one would compile while the maps of the other fill the
        # memory, and the kernel would end it instead of refusing the maps.
        alone = f'taskset --cpu-list {min(os.sched_getaffinity(0))}'
        command = ('sh', '-c', f'echo $$ >{procs} && exec {alone} {PYTHON} -m sockaccel "$@"', 'sh')
        said = fails(root, *command, settings=f'MaximumConnections={connections}\n')
    assert expected in said
    assert 'CAP_' not in said


@pytest.mark.parametrize(
    ('settings', 'expected'),
    [
        ('Nonsense=1\n', 'sockaccel.conf:3: key "Nonsense" is unknown'),
        ('MaximumConnections=many\n', 'sockaccel.conf:3: MaximumConnections= "many" is not a number'),
        ('CgroupRoot=/sockaccel-nowhere\n', 'does not exist'),
    ],
)
def test_a_bad_setting_is_named(root: Cgroup, settings: str, expected: str) -> None:
    assert expected in fails(root, settings=settings)


def test_the_end_of_the_bus_ends_the_daemon(root: Cgroup) -> None:
    with PrivateBus() as bus, Daemon(root.path) as daemon:
        daemon.ready()
        bus.stop()
        assert daemon.wait() == 1
        assert 'the connection to the system bus was lost' in daemon.log.read_text()
        assert 'Traceback' not in daemon.log.read_text()


def test_a_program_of_somebody_else_in_the_way(root: Cgroup, tmp_path: object) -> None:
    """Attached without BPF_F_ALLOW_MULTI it keeps others from the cgroup; Enable says so and changes nothing."""
    with Daemon(root.path) as daemon, ForeignProgram(root):
        daemon.ready()
        answer = harness.control('enable', *(f'--accept={name}' for name in harness.every_issue()), root.path)
        assert answer.returncode == 1
        assert 'a sock_ops or sock_release program of somebody else' in answer.stderr
        assert harness.targets() == []


class ForeignProgram:
    """A sock_ops program attached to a cgroup the old way, for itself alone."""

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup

    def __enter__(self) -> None:
        import ctypes

        libbpf = ctypes.CDLL('libbpf.so.1', use_errno=True)
        # r0 = 1; exit
        code = (ctypes.c_uint64 * 2)(0x00000001000000B7, 0x0000000000000095)
        self._program = libbpf.bpf_prog_load(13, b'foreign', b'GPL', code, 2, None)
        assert self._program > 0
        self._directory = os.open(self._cgroup.directory, os.O_RDONLY)
        assert libbpf.bpf_prog_attach(self._program, self._directory, 3, 0) == 0

    def __exit__(self, *_exc: object) -> None:
        import ctypes

        ctypes.CDLL('libbpf.so.1').bpf_prog_detach2(self._program, self._directory, 3)
        os.close(self._program)
        os.close(self._directory)


def test_the_limit_of_connections_is_kept(root: Cgroup) -> None:
    with Daemon(root.path, 'MaximumConnections=5\n') as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        with root.inside(), traffic.listen() as listener:
            made = [traffic.connect(listener) for _connection in range(8)]
        for each in made:
            exchange(each)
        assert len(traffic.members()) <= 10
        assert harness.call('Stats')['connection_reason_map_full'] >= 3
        for each in made:
            each.close()


def test_a_killed_daemon_leaves_a_slow_reader_bounded(root: Cgroup) -> None:
    with Daemon(root.path) as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        with pair(root) as made:
            exchange(made)
            daemon.stop(signal.SIGKILL)
            accepted = fill(made.client)
            assert accepted < 16 << 20
            assert len(read(made.server, accepted)) == accepted
            assert made.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_reload(root: Cgroup) -> None:
    with Daemon(root.path) as daemon:
        daemon.ready()
        refused = harness.control('enable', root.path).returncode
        daemon.configure('AcceptKernelIssues=fionread splice\n')
        daemon.reload()
        assert any(line.startswith('MONOTONIC_USEC=') for line in daemon.heard())
        assert harness.control('enable', root.path).returncode == 0
        daemon.configure('Nonsense=1\n')
        daemon.reload()
        assert 'the previous one stays in force' in daemon.log.read_text()
        assert refused == (1 if harness.every_issue() else 0)
        with pair(root) as made:
            exchange(made, rounds=10)
        assert harness.call('Stats')['redirected_messages'] > 0


def test_trace_says_what_was_left_out(root: Cgroup) -> None:
    with Daemon(root.path, 'EventsPerSecond=0\nJoinDelayMs=0\n') as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        with Trace() as trace:
            with pair(root) as made:
                exchange(made)
            assert 'events were left out, see EventsPerSecond=' in trace.interrupt()
            assert not trace.lines
