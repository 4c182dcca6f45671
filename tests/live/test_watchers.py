# SPDX-License-Identifier: GPL-2.0-or-later
"""What only a call shows takes a connection out, where the kernel takes watchers, and upgrades miss none."""

import fcntl
import json
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
from pathlib import Path

import pytest

from sockaccel.kernel.watched import ASK_WATCHERS, WAIT_WATCHER, WATCHERS
from tests.support import harness, traffic
from tests.support.harness import Cgroup, Daemon, FdStore, PrivateBus
from tests.support.patience import PATIENCE_S
from tests.support.traffic import Pair, exchange, pair, read, write


@pytest.fixture(autouse=True)
def _takes_watchers(request: pytest.FixtureRequest) -> None:
    # The one test with daemons of its own asks them.
    if 'daemon' in request.fixturenames and 'splice' in harness.every_issue():
        pytest.skip('this kernel takes no watchers')


def reasons(made: Pair) -> set[str]:
    """Why a connection has left, '' among them where it has not."""
    port = made.client.getsockname()[1]
    (row,) = [row for row in harness.connections() if row['client_port'] == port]
    return {str(row['client_reason']), str(row['server_reason'])}


def leaves(made: Pair, reason: str) -> None:
    """Wait until a connection has left for a reason; what it carries meanwhile stays whole."""

    def left() -> bool:
        exchange(made, rounds=1)
        return reason in reasons(made)

    harness.wait_until(left, f'the connection leaves: {reason}')
    exchange(made)


def urgent(made: Pair, before: bytes = b'') -> list[object]:
    """What a reader gets of an urgent byte behind unread ones and before others, one step after the other."""
    poll = select.poll()
    poll.register(made.server, select.POLLPRI)
    if before:
        write(made.client, before)
    made.client.send(b'!', socket.MSG_OOB)
    write(made.client, b'cd')
    seen: list[object] = [bool(poll.poll(PATIENCE_S * 1000))]
    seen.append(made.server.recv(1, socket.MSG_OOB))
    # A read stops at the mark.
    if before:
        seen.append(read(made.server, len(before)))
    seen.append(read(made.server, 2))
    return seen


def test_recv_of_an_urgent_byte(target: Cgroup, bystander: Cgroup) -> None:
    """The first such call of a member would take an unread redirected byte; then it leaves."""
    with pair(bystander, joins=False) as plain:
        exchange(plain)
        expected = [urgent(plain), urgent(plain, b'ab')]
    with pair(target) as made:
        exchange(made)
        first = urgent(made)
        leaves(made, 'read_flags_end')
        assert [first, urgent(made, b'ab')] == expected


def wait_for_all(made: Pair, parts: list[bytes]) -> list[bytes]:
    """What recv(MSG_WAITALL) gives for each part while it comes in halves, the second once the first is there."""
    got: list[bytes] = []
    for part in parts:
        reader = threading.Thread(
            target=lambda part=part: got.append(made.server.recv(len(part), socket.MSG_WAITALL))
        )
        reader.start()
        write(made.client, part[:4])
        reader.join(0.1)
        write(made.client, part[4:])
        reader.join(PATIENCE_S)
        # What a short read has left.
        if len(got[-1]) < len(part):
            read(made.server, len(part) - len(got[-1]))
    return got


def test_recv_that_waits_for_all(root_cgroup: Cgroup, bystander: Cgroup) -> None:
    """The first such call of a member may be short; then it leaves, and no other one is."""
    parts = [bytes([number]) * 8 for number in range(5)]
    with pair(bystander, blocking=True) as plain:
        exchange(plain)
        assert wait_for_all(plain, parts) == parts
    with Cgroup('waits', root_cgroup) as cgroup:
        harness.enable(cgroup.path, *harness.every_issue(), BlockingReaders='yes')
        try:
            with pair(cgroup, blocking=True, joins=True) as made:
                exchange(made)
                first = wait_for_all(made, parts[:1])[0]
                assert parts[0].startswith(first)
                leaves(made, 'read_flags_end')
                assert wait_for_all(made, parts) == parts
        finally:
            harness.call('Disable', 's', cgroup.path)


def unread(end: socket.socket) -> int:
    return int(struct.unpack('i', fcntl.ioctl(end, termios.FIONREAD, bytes(4)))[0])


def test_who_asks_fionread_leaves(target: Cgroup) -> None:
    (found,) = [row for row in harness.call('ListFindings') if row['name'] == 'fionread']
    if found['severity'] == 'ok':
        pytest.skip('this kernel answers rightly')
    with pair(target) as made:
        exchange(made)
        # As a member: newer kernels have a function of its own for that.
        assert traffic.is_member(made.server)
        unread(made.server)
        leaves(made, 'fionread_end')
        write(made.client, b'four')
        harness.wait_until(lambda: unread(made.server) == 4, 'FIONREAD is right')
        assert read(made.server, 4) == b'four'


class Ordered(FdStore):
    """A store that notes in which order watchers come and go. steps: "+" or "-", with the name in the store."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []

    def obey(self, lines: list[str], fds: list[int]) -> None:
        sign = '-' if 'FDSTOREREMOVE=1' in lines else '+'
        names = [line.partition('=')[2] for line in lines if line.startswith('FDNAME=')]
        self.steps += [f'{sign}{name}' for name in names if '-link_' in name]
        super().obey(lines, fds)

    def watched(self) -> set[str]:
        """The names of the watchers that are attached, without the digest of their version."""
        return {name.partition('-link_')[2] for name in self.fds if '-link_' in name}


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """This daemon, with other code of the watchers and the same maps."""
    directory = tmp_path / 'newer'
    harness.copy_code(directory)
    with (directory / 'bpf' / 'watch.c').open('a') as file:
        file.write('\n/* Another version. */\n')
    return directory


def running() -> set[str]:
    """The names of our programs that have a link."""
    links = json.loads(
        subprocess.run(['bpftool', '--json', 'link', 'list'], check=True, capture_output=True).stdout
    )
    programs = json.loads(
        subprocess.run(['bpftool', '--json', 'prog', 'list'], check=True, capture_output=True).stdout
    )
    names = {program['id']: program.get('name', '') for program in programs}
    return {names.get(link.get('prog_id'), '') for link in links} & {name[:15] for name in WATCHERS}


def needed(fionread: str) -> set[str]:
    """The watchers that this kernel must have while a reader is looked at."""
    functions = {line.split()[2] for line in Path('/proc/kallsyms').read_text().splitlines()}
    there = {name for name, watcher in WATCHERS.items() if watcher.function in functions}
    return there - set(ASK_WATCHERS) if fionread == 'ok' else there


def test_an_upgrade_attaches_new_watchers_before_the_old_ones_go(tmp_path: Path, newer: Path) -> None:
    with (
        PrivateBus(), Cgroup('sockaccel-watchers') as root, Ordered() as store,
        Daemon(root.path, 'JoinDelayMs=0\n', state=tmp_path, store=store) as daemon,
    ):  # fmt: skip
        daemon.ready()
        findings = {row['name']: row['severity'] for row in harness.call('ListFindings')}
        if findings['splice'] == 'issue':
            pytest.skip('this kernel takes no watchers')
        harness.enable(root.path)
        expected = needed(findings['fionread'])
        # One that reads in blocking mode so far is looked at by the watcher that is attached on demand.
        with pair(root, blocking=True) as made, pair(root) as member:
            harness.wait_until(lambda: WAIT_WATCHER in store.watched(), 'its reads are watched')
            assert store.watched() == expected
            assert running() == {name[:15] for name in expected}
            first = {name for name in store.fds if '-link_' in name}
            daemon.stop(signal.SIGKILL)
            store.steps.clear()
            with Daemon(
                root.path, 'JoinDelayMs=0\n', state=tmp_path, store=store, directory=newer
            ) as second:  # fmt: skip
                second.ready()
                harness.wait_until(lambda: not first & store.fds.keys(), 'the old ones are let go')
                assert store.watched() == expected
                assert running() == {name[:15] for name in expected}
                changes = [step[0] for step in store.steps]
                # Every new one was there before the first old one went.
                assert changes == ['+'] * len(expected) + ['-'] * len(expected), store.steps
                exchange(member)
                exchange(made)
                second.stop(signal.SIGKILL)
