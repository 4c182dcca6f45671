# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in the kernel outlives the daemon: restart, crash, upgrade, and who may not adopt what."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockaccel.ctl.client import boolean, strings
from tests.support import harness, traffic
from tests.support.harness import Cgroup, Daemon, FdStore, PrivateBus
from tests.support.systemd import Systemd
from tests.support.traffic import Pair, accelerate, exchange, read, write

PINS = Path('/sys/fs/bpf/sockaccel')
UNIT = 'sockaccel.service'


@pytest.fixture(scope='module', autouse=True)
def bpf_filesystem() -> Iterator[None]:
    """Mounted by systemd, where there is one."""
    mount = str(PINS.parent)
    if os.path.ismount(mount):
        yield
        return
    subprocess.run(['mount', '-t', 'bpf', 'bpf', mount], check=True)
    yield
    subprocess.run(['umount', mount], check=True)


@pytest.fixture
def root() -> Iterator[Cgroup]:
    with PrivateBus(), Cgroup(f'sockaccel-restart-{os.getpid()}') as cgroup:
        yield cgroup


@pytest.fixture(params=['store', 'pins'])
def store(request: pytest.FixtureRequest) -> Iterator[FdStore | None]:
    """Where objects outlive the daemon: a service manager's store, or, for None, the BPF file system."""
    if request.param == 'pins':
        yield None
    else:
        with FdStore() as kept:
            yield kept


def start(
    root: Cgroup, state: Path, store: FdStore | None, settings: str = '', directory: Path = harness.ROOT
) -> Daemon:
    return Daemon(root.path, settings, state=state, store=store, directory=directory, systemd=store is not None)


def stats() -> dict[str, int]:
    return dict(harness.call('Stats'))


def _compiled_for_s(daemon: Daemon) -> float:
    """CPU time of the processes that a daemon has started and waited for: proc(5), cutime and cstime."""
    fields = Path(f'/proc/{daemon.process.pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf('SC_CLK_TCK')


def test_a_killed_daemon_is_followed_by_one_that_adopts(
    root: Cgroup, tmp_path: Path, store: FdStore | None
) -> None:
    with start(root, tmp_path, store) as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        with traffic.pair(root) as made:
            accelerate(made)
            write(made.client, b'unread')
            before, objects = stats(), harness.objects()
            daemon.stop(signal.SIGKILL)
            write(made.client, b', and while nobody is there')
            with start(root, tmp_path, store) as second:
                second.ready()
                # Nothing was compiled, loaded or let go.
                assert harness.objects() == objects
                assert _compiled_for_s(second) == 0
                assert harness.targets()[0][:2] == (root.path, 'active')
                assert traffic.is_member(made.client)
                assert read(made.server, 33) == b'unread, and while nobody is there'
                exchange(made)
                after = stats()
                assert after['redirected_messages'] == before['redirected_messages'] + 1 + 6
                assert after['connections'] == before['connections'] == 1
                with traffic.pair(root) as another:
                    accelerate(another)


def test_a_restart_is_no_stop(root: Cgroup, tmp_path: Path) -> None:
    with Systemd() as systemd, FdStore() as store, start(root, tmp_path, store) as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        systemd.main_unit(UNIT, daemon.process.pid, 'restart')
        with traffic.pair(root) as made:
            accelerate(made)
            objects = harness.objects()
            assert daemon.stop() == 0
            before = traffic.sent_by_tcp(made)
            exchange(made, rounds=100)
            assert traffic.sent_by_tcp(made) == before
            with start(root, tmp_path, store) as second:
                second.ready()
                assert harness.objects() == objects
                redirected = stats()['redirected_messages']
                exchange(made)
                assert stats()['redirected_messages'] == redirected + 6
                systemd.main_unit(UNIT, second.process.pid, 'stop')
                assert second.stop() == 0
                assert not store.fds
                before = traffic.sent_by_tcp(made)
                exchange(made, rounds=100)
                assert traffic.sent_by_tcp(made) - before == 800


def copy(directory: Path) -> Path:
    """This checkout's daemon, to be changed."""
    for name in ('sockaccel', 'bpf'):
        shutil.copytree(harness.ROOT / name, directory / name)
    return directory


def test_an_upgrade_of_the_code_reaches_live_connections(
    root: Cgroup, tmp_path: Path, store: FdStore | None
) -> None:
    newer = copy(tmp_path / 'newer')
    verdict = newer / 'bpf' / 'verdict.c'
    # The newer version leaves every message to TCP, for a reason that it counts.
    text = verdict.read_text()
    assert text.count('	u8 state = OWN(u8, sock, OFFSET_sock_state);\n') == 1
    verdict.write_text(text.replace(
        '	u8 state = OWN(u8, sock, OFFSET_sock_state);\n',
        '	u8 state = OWN(u8, sock, OFFSET_sock_state);\n\n	if (state)\n		return CORK;\n',
    ))  # fmt: skip
    with start(root, tmp_path, store) as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        with traffic.pair(root) as made:
            accelerate(made)
            write(made.client, b'unread')
            before, objects = stats(), harness.objects()
            daemon.stop(signal.SIGKILL)
            with start(root, tmp_path, store, directory=newer) as second:
                second.ready()
                after = harness.objects()
                assert after['map'] == objects['map']
                assert after['link'] == objects['link']
                assert len(after['prog'] - objects['prog']) == len(objects['prog'] - after['prog']) + 1
                assert traffic.is_member(made.client)
                assert read(made.server, 6) == b'unread'
                exchange(made)
                now = stats()
                assert now['redirected_messages'] == before['redirected_messages']
                assert now['message_reason_cork'] == before['message_reason_cork'] + 6
                assert now['connections'] == before['connections']
                # New connections get the newer version too.
                with traffic.pair(root) as another:
                    accelerate(another)
                    exchange(another)
                    assert stats()['redirected_messages'] == before['redirected_messages']
                second.stop(signal.SIGKILL)
            # And back.
            with start(root, tmp_path, store) as third:
                third.ready()
                # Its first message after each end had joined went by TCP long ago.
                exchange(made)
                assert stats()['redirected_messages'] == before['redirected_messages'] + 6


def test_another_layout_gets_maps_of_its_own(root: Cgroup, tmp_path: Path, store: FdStore | None) -> None:
    others = harness.objects()
    with start(root, tmp_path, store) as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        with traffic.pair(root) as made:
            accelerate(made)
            write(made.client, b'unread')
            ours = {kind: ids - others[kind] for kind, ids in harness.objects().items()}
            daemon.stop(signal.SIGKILL)
            with start(root, tmp_path, store, 'MaximumConnections=1000\n') as second:
                second.ready()
                assert 'go on by TCP' in second.log_text
                assert harness.targets()[0][:2] == (root.path, 'active')
                # Of the older one there is only what the two sockets hold.
                harness.wait_until(
                    lambda: len(harness.objects()['prog'] & ours['prog']) < 4, 'the older version is let go'
                )
                harness.wait_until(lambda: not harness.objects()['link'] & ours['link'], 'its link goes')
                assert read(made.server, 6) == b'unread'
                before = traffic.sent_by_tcp(made)
                exchange(made, rounds=20)
                assert traffic.sent_by_tcp(made) - before == 160
                with traffic.pair(root) as another:
                    exchange(another)
                    assert stats()['redirected_messages'] == 6


def maps_of(daemon: Daemon) -> set[str]:
    """The ids of the BPF maps that a daemon holds."""
    found: set[str] = set()
    for path in Path(f'/proc/{daemon.process.pid}/fdinfo').iterdir():
        found.update(line.split()[1] for line in path.read_text().splitlines() if line.startswith('map_id:'))
    return found


@pytest.mark.parametrize('whose', ['ours', 'writable for others', "another user's"])
def test_pins_of_somebody_else_are_not_adopted(root: Cgroup, tmp_path: Path, whose: str) -> None:
    """They are whole and fit: who could have made or changed them is all that tells one case from another."""
    with start(root, tmp_path, None) as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        maps = maps_of(daemon)
        daemon.stop(signal.SIGKILL)
    pinned = sorted(PINS.iterdir())
    assert maps
    assert pinned
    if whose == 'writable for others':
        PINS.chmod(0o777)
    elif whose == "another user's":
        os.chown(PINS, 65534, 65534)
    try:
        with start(root, tmp_path, None) as second:
            second.ready()
            assert targets() == {root.path: 'active'}
            if whose == 'ours':
                assert maps_of(second) == maps
            else:
                assert 'somebody else may write to it' in second.log_text
                assert not maps_of(second) & maps
            second.stop()
            assert sorted(PINS.iterdir() if PINS.exists() else []) == ([] if whose == 'ours' else pinned)
    finally:
        shutil.rmtree(PINS, ignore_errors=True)


@pytest.mark.parametrize('damage', ['a program is missing', 'a map is missing', 'a map is another'])
def test_what_is_not_whole_is_not_adopted(root: Cgroup, tmp_path: Path, damage: str) -> None:
    with FdStore() as store, start(root, tmp_path, store) as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        with traffic.pair(root) as made:
            accelerate(made)
            write(made.client, b'unread')
            daemon.stop(signal.SIGKILL)
            daemon.heard()
            name = {name.partition('-')[2]: name for name in store.fds}
            if damage == 'a program is missing':
                store.obey(['FDSTOREREMOVE=1', f'FDNAME={name["sockaccel_msg"]}'], [])
            elif damage == 'a map is missing':
                store.obey(['FDSTOREREMOVE=1', f'FDNAME={name["sa_peers"]}'], [])
            else:
                os.dup2(store.fds[name['sa_events']], store.fds[name['sa_peers']])
            with start(root, tmp_path, store) as second:
                second.ready()
                assert read(made.server, 6) == b'unread'
                with traffic.pair(root) as another:
                    accelerate(another)
                    exchange(another)
                    exchange(made)
                    assert stats()['redirected_messages'] >= 6


def test_two_at_once_of_which_one_has_no_bus_name_yet(root: Cgroup, tmp_path: Path) -> None:
    """The second finds the state taken, whatever its bus."""
    with start(root, tmp_path, None) as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        objects = harness.objects()
        with PrivateBus():
            for state, said in ((tmp_path, 'works with'), (tmp_path / 'other', f'works with "{PINS}"')):
                state.mkdir(exist_ok=True)
                with start(root, state, None) as second:
                    assert second.wait() == 1
                    assert 'another sockaccel ' in second.log_text
                    assert said in second.log_text
                    assert 'Traceback' not in second.log_text
        assert harness.objects() == objects
        assert harness.targets()[0][:2] == (root.path, 'active')


def test_a_reboot_forgets_what_was_only_for_now(root: Cgroup, tmp_path: Path) -> None:
    """Of the two directories the one for run time is empty then."""
    with start(root, tmp_path, None) as daemon:
        daemon.ready()
        harness.enable(root.path, *harness.every_issue())
        daemon.stop(signal.SIGKILL)
    shutil.rmtree(PINS)
    shutil.rmtree(tmp_path / 'runtime')
    with start(root, tmp_path, None) as daemon:
        daemon.ready()
        assert harness.targets()[0][:2] == (root.path, 'active')


def for_now(member: str, name: str) -> None:
    """Enable or Disable a target until the daemon is stopped."""
    options = {'runtime': boolean(True)}
    if member == 'Enable':
        options['AcceptKernelIssues'] = strings(harness.every_issue())
    harness.call(f'{member}WithOptions', 'sa{sv}', name, options)


def targets() -> dict[str, str]:
    return {name: state for name, state, _detail in harness.targets()}


@pytest.mark.parametrize(('kept', 'ending'), [('store', 'kill'), ('pins', 'kill'), ('store', 'restart')])
def test_what_is_only_for_now_lasts_until_the_stop(root: Cgroup, tmp_path: Path, kept: str, ending: str) -> None:
    with contextlib.ExitStack() as stack:
        systemd = stack.enter_context(Systemd())
        store = stack.enter_context(FdStore()) if kept == 'store' else None
        lasting, off, off_and_on, on = (
            stack.enter_context(Cgroup(name, root)) for name in ('lasting', 'off', 'off-and-on', 'on')
        )
        for_ever = dict.fromkeys((lasting.path, off.path, off_and_on.path), 'active')
        now = dict.fromkeys((lasting.path, off_and_on.path, on.path), 'active')

        def check(expected: dict[str, str]) -> None:
            """What is listed is what new connections meet; the one that is there shows that they are looked at."""
            assert targets() == expected
            for cgroup in (lasting, off, off_and_on, on):
                if cgroup.path in expected:
                    with traffic.pair(cgroup) as made:
                        exchange(made)
            for cgroup in (off, on):
                if cgroup.path not in expected:
                    with traffic.pair(cgroup, joins=False) as made, traffic.pair(lasting):
                        assert not traffic.is_member(made.client)

        with start(root, tmp_path, store) as daemon:
            daemon.ready()
            for cgroup in (lasting, off, off_and_on):
                harness.enable(cgroup.path, *harness.every_issue())
            for_now('Enable', on.path)
            for_now('Disable', off.path)
            for_now('Disable', off_and_on.path)
            for_now('Enable', off_and_on.path)
            # What lasts already is not made to end.
            for_now('Enable', lasting.path)
            check(now)
            if ending == 'restart':
                systemd.main_unit(UNIT, daemon.process.pid, 'restart')
                assert daemon.stop() == 0
                systemd.main_unit(UNIT, 0, '')
            else:
                daemon.stop(signal.SIGKILL)
        with start(root, tmp_path, store) as second:
            second.ready()
            check(now)
            assert second.stop() == 0
        with start(root, tmp_path, store) as third:
            third.ready()
            check(for_ever)
            # Not a second time.
            third.stop(signal.SIGKILL)
        with start(root, tmp_path, store) as fourth:
            fourth.ready()
            check(for_ever)


@pytest.mark.parametrize('opened', ['under the daemon before', 'while there is no daemon'])
def test_a_listener_from_before_an_adoption_is_covered(
    root: Cgroup, tmp_path: Path, store: FdStore | None, opened: str
) -> None:
    """Of a target that is enabled, and of one that is enabled only later. The clients belong to no target."""
    with contextlib.ExitStack() as stack:
        first, second, outside = (
            stack.enter_context(Cgroup(name, root)) for name in ('first', 'second', 'outside')
        )

        def listeners() -> list[tuple[str, socket.socket]]:
            made = []
            for cgroup in (first, second):
                for family in traffic.FAMILIES:
                    with cgroup.inside():
                        made.append((family, stack.enter_context(traffic.listen(family))))
            return made

        def connect(opened: list[tuple[str, socket.socket]]) -> list[Pair]:
            made = []
            with outside.inside():
                for family, listener in opened:
                    made.append(traffic.connect(listener, family))
                    stack.callback(made[-1].close)
            return made

        with start(root, tmp_path, store, 'JoinDelayMs=0\n') as daemon:
            daemon.ready()
            harness.enable(first.path, *harness.every_issue())
            made = listeners() if opened == 'under the daemon before' else []
            daemon.stop(signal.SIGKILL)
        made = made or listeners()
        with start(root, tmp_path, store, 'JoinDelayMs=0\n') as adopting:
            adopting.ready()
            of_first, of_second = connect(made[:3]), connect(made[3:])
            accelerate(*of_first)
            assert not any(traffic.is_member(pair.client) for pair in of_second)
            harness.enable(second.path, *harness.every_issue())
            accelerate(*connect(made[:3]), *connect(made[3:]))
