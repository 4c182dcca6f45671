# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of a target: its cgroup comes and goes, the daemon ends and starts, the wish lasts."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockaccel.ctl.client import Refused
from sockaccel.kernel import libbpf
from tests.support import harness, traffic
from tests.support.harness import Cgroup, Daemon, FdStore, PrivateBus
from tests.support.systemd import Systemd

Targets = list[tuple[str, str]]
SO_COOKIE = 57
# Rounds, of three cgroups each; before what is measured, and once more.
CHURN = 10_000


def targets() -> Targets:
    return [(name, state) for name, state, _detail in harness.targets()]


def detail() -> str:
    ((_name, _state, what),) = harness.targets()
    return str(what)


def must_join(cgroup: Cgroup) -> None:
    """A new connection of the cgroup is accelerated at last. Raises AssertionError."""
    with traffic.pair(cgroup):
        pass


def stays_out(cgroup: Cgroup) -> bool:
    """Whether a new connection is left to TCP; a younger one, of another target, shows that it was looked at."""
    with Cgroup('elsewhere', cgroup) as elsewhere, traffic.pair(cgroup, joins=False) as made:
        enable(elsewhere.path)
        with traffic.pair(elsewhere):
            out = not (traffic.is_member(made.client) or traffic.is_member(made.server))
        harness.call('Disable', 's', elsewhere.path)
        return out


@pytest.fixture
def root() -> Iterator[Cgroup]:
    with PrivateBus(), Cgroup(f'sockaccel-targets-{os.getpid()}') as cgroup:
        yield cgroup


@pytest.fixture
def daemon(root: Cgroup) -> Iterator[Daemon]:
    with Daemon(root.path) as daemon:
        yield daemon.ready()
    assert 'Traceback' not in daemon.log_text


def enable(name: str, *, wait: bool = False) -> None:
    harness.enable(name, *harness.every_issue(), wait=wait)


def wait_for(state: str) -> None:
    harness.wait_until(lambda: [seen for _name, seen in targets()] == [state], f'the target is {state}')


@pytest.mark.usefixtures('daemon')
def test_a_cgroup_that_is_made_anew_is_covered_again(root: Cgroup) -> None:
    with Cgroup('slice', root) as parent:
        with Cgroup('service', parent) as service:
            enable(service.path)
            must_join(service)
        wait_for('waiting')
        for _restart in range(3):
            with Cgroup('service', parent) as service:
                wait_for('active')
                must_join(service)
            wait_for('waiting')
    # The directory above goes and comes back too.
    with Cgroup('slice', root) as parent, Cgroup('service', parent) as service:
        wait_for('active')
        must_join(service)


@pytest.mark.usefixtures('daemon')
def test_what_is_nested_comes_and_goes_without_a_word(root: Cgroup) -> None:
    with Cgroup('service', root) as service:
        enable(service.path)
        for depth in ('one', 'two'):
            with Cgroup(depth, service) as nested, Cgroup('below', nested) as below:
                must_join(below)
        assert targets() == [(service.path, 'active')]


def test_nothing_is_missed_when_more_happens_than_the_kernel_keeps(root: Cgroup, daemon: Daemon) -> None:
    with Cgroup('service', root) as service:
        enable(service.path)
    wait_for('waiting')
    kept = int(Path('/proc/sys/fs/inotify/max_queued_events').read_text())
    os.kill(daemon.process.pid, signal.SIGSTOP)
    other = root.directory / 'other'
    for _number in range(kept // 2 + 10):
        other.mkdir()
        other.rmdir()
    with Cgroup('service', root) as service:
        os.kill(daemon.process.pid, signal.SIGCONT)
        wait_for('active')
        must_join(service)


def test_connections_that_are_made_before_their_cgroup_is_covered_are_adopted(
    root: Cgroup, daemon: Daemon
) -> None:
    with Cgroup('client', root) as client, contextlib.ExitStack() as stack:
        with Cgroup('service', root) as service:
            enable(service.path)
        wait_for('waiting')
        os.kill(daemon.process.pid, signal.SIGSTOP)
        service = stack.enter_context(Cgroup('service', root))
        with service.inside():
            listener = stack.enter_context(traffic.listen())
            both_inside = traffic.connect(listener)
        with client.inside():
            server_inside = traffic.connect(listener)
        made = (both_inside, server_inside)
        # Another fd of the same socket is no other connection.
        stack.enter_context(server_inside.server.dup())
        for pair in made:
            stack.callback(pair.close)
        os.kill(daemon.process.pid, signal.SIGCONT)
        wait_for('active')
        traffic.accelerate(*made)
        assert harness.call('Stats')['adopted'] == 2
        shown = json.loads(harness.control('connections', '--json').stdout)
        assert [row['adopted'] for row in shown] == [True, True]
        for pair in made:
            traffic.exchange(pair)
        with client.inside():
            following = traffic.connect(listener)
        stack.callback(following.close)
        traffic.accelerate(following)
        assert harness.call('Stats')['adopted'] == 2


def test_what_was_left_out_for_a_reason_was_not_missed(root: Cgroup) -> None:
    with Cgroup('service', root) as service, Cgroup('other', root) as other, traffic.listen() as outside:
        with service.inside():
            listener = traffic.listen()
        port = listener.getsockname()[1]
        with listener, Daemon(root.path, f'JoinDelayMs=0\nExcludePorts={port}\n') as daemon:
            daemon.ready()
            enable(service.path)
            unseen = traffic.connect(listener)
            with other.inside():
                excluded = traffic.connect(listener)
            with service.inside():
                lonely = traffic.connect(outside)
            enable(other.path)
            with traffic.pair(other, joins=True), traffic.pair(service, joins=True):
                assert harness.call('Stats')['adopted'] == 0
                shown = json.loads(harness.control('connections', '--json').stdout)
                assert {'excluded', 'client_unseen'} <= {row['client_reason'] for row in shown}
            for pair in (excluded, lonely, unseen):
                traffic.exchange(pair)
                pair.close()


def test_a_unit_is_followed_wherever_it_goes(root: Cgroup) -> None:
    with Systemd() as systemd, Daemon(root.path) as daemon:
        daemon.ready()
        with pytest.raises(Refused, match='systemd does not know unit "late.service": check its name'):
            enable('late.service')
        assert targets() == []
        answer = harness.control('enable', r'app@a\x2db.service')
        assert answer.returncode == 1
        # Whichever refusal it is, its advice can be pasted into a shell.
        assert r"'app@a\x2db.service'" in answer.stderr
        enable('late.service', wait=True)
        assert targets() == [('late.service', 'waiting')]
        # It is installed, and expected below its slice.
        first = Cgroup('first.slice', root)
        with first, Cgroup('first-more.slice', first) as place:
            systemd.unit('late.service', cgroup=f'{place.path}/late.service')
            with Cgroup('late.service', place) as unit:
                wait_for('active')
                must_join(unit)
            wait_for('waiting')
            # It starts in the same place, and systemd need not say so.
            with Cgroup('late.service', place) as unit:
                wait_for('active')
                must_join(unit)
        with Cgroup('second.slice', root) as place, Cgroup('late.service', place) as unit:
            systemd.unit('late.service', cgroup=unit.path)
            wait_for('active')
            assert detail() == f'cgroup {unit.path}'
            must_join(unit)


def test_a_unit_outside_the_root_waits_and_says_why(root: Cgroup) -> None:
    with Systemd() as systemd, Daemon(root.path) as daemon:
        daemon.ready()
        enable('astray.service', wait=True)
        with Cgroup(f'sockaccel-astray-{os.getpid()}') as place:
            systemd.unit('astray.service', cgroup=place.path)
            harness.wait_until(lambda: 'confined to' in detail(), 'it is told where the unit is')
            assert targets() == [('astray.service', 'waiting')]


def test_a_unit_that_cannot_be_used_is_refused(root: Cgroup) -> None:
    with Systemd() as systemd, Daemon(root.path) as daemon:
        daemon.ready()
        systemd.unit('bad.service', state='bad-setting')
        answer = harness.control('enable', *(f'--accept={name}' for name in harness.every_issue()), 'bad.service')
        assert answer.returncode == 1
        assert 'unit "bad.service" cannot be used: systemd says "bad-setting"' in answer.stderr
        assert targets() == []


@pytest.mark.parametrize('address', ['127.0.0.1', '::1', '::'])
def test_a_service_whose_socket_systemd_opened(root: Cgroup, address: str) -> None:
    """The accepting ends belong to systemd's cgroup; who answers on another port of it is not concerned."""
    family = 'mapped' if address == '::' else 'ipv6' if ':' in address else 'ipv4'
    with (
        Systemd() as systemd,
        Daemon(root.path, 'JoinDelayMs=0\n') as daemon,
        Cgroup('manager', root) as manager,
        Cgroup('client', root) as client,
        Cgroup('its.service', root) as service,
    ):
        daemon.ready()
        with manager.inside():
            listener, other = traffic.listen(family), traffic.listen(family)
        with listener, other:
            shown = f'[{address}]' if ':' in address else address
            systemd.unit('its.socket', listen=f'{shown}:{listener.getsockname()[1]}')
            systemd.unit('its.service', cgroup=service.path, triggers=('its.socket', 'its.timer'))
            enable('its.service')
            with client.inside():
                made, stranger = traffic.connect(listener, family), traffic.connect(other, family)
            traffic.accelerate(made)
            assert not traffic.is_member(stranger.client)
            harness.call('Disable', 's', 'its.service')
            with client.inside():
                late = traffic.connect(listener, family)
            enable('its.service')
            with client.inside():
                again = traffic.connect(listener, family)
            # The one that was made in between is adopted.
            traffic.accelerate(again, late)
            assert not traffic.is_member(stranger.client)
            for pair in (made, stranger, late, again):
                pair.close()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_targets_outlive_the_daemon(root: Cgroup, tmp_path: Path, number: int) -> None:
    with Cgroup('service', root) as service:
        with Daemon(root.path, state=tmp_path) as daemon:
            daemon.ready()
            enable(service.path)
            enable(root.path)
            harness.call('Disable', 's', root.path)
            daemon.stop(number)
        with Daemon(root.path, state=tmp_path) as daemon:
            daemon.ready()
            assert targets() == [(service.path, 'active')]
            must_join(service)
    # A path that is not there any more is waited for.
    with Daemon(root.path, state=tmp_path) as daemon:
        daemon.ready()
        assert targets() == [(service.path, 'waiting')]


@pytest.mark.parametrize(
    ('text', 'what'),
    [
        ('', 'Expecting value'),
        ('{"version": 1, "targets": [{"name": "/x", ', 'Expecting'),
        ('{"version": 2}', "no 'targets' in it"),
        ('{"version": 1, "targets": []}', 'version 1'),
        ('{"version": 2, "targets": [{"name": 5, "policy": {}}]}', 'not a text'),
        ('[]', 'indices'),
        ('[' * 100_000, 'recursion'),
        ('\0', 'Expecting'),
    ],
)
def test_a_damaged_file_is_set_aside(root: Cgroup, tmp_path: Path, text: str, what: str) -> None:
    file = tmp_path / 'state' / 'targets.json'
    file.parent.mkdir()
    file.write_text(text)
    with Daemon(root.path, state=tmp_path) as daemon:
        daemon.ready()
        assert targets() == []
        assert f'The remembered targets in "{file}" cannot be used' in daemon.log_text
        assert what in daemon.log_text
        assert 'Traceback' not in daemon.log_text
        enable(root.path)
        assert file.with_name('targets.json.damaged').read_text() == text
        assert [entry['name'] for entry in json.loads(file.read_text())['targets']] == [root.path]


def test_what_cannot_be_remembered_is_not_enabled(root: Cgroup, tmp_path: Path) -> None:
    with Daemon(root.path, state=tmp_path) as daemon:
        daemon.ready()
        # Not even root replaces a directory by a file.
        (tmp_path / 'state' / 'targets.json').unlink()
        (tmp_path / 'state' / 'targets.json').mkdir()
        answer = harness.control('enable', *(f'--accept={name}' for name in harness.every_issue()), root.path)
        assert answer.returncode == 1
        assert 'cannot remember the targets in' in answer.stderr
        assert targets() == []
        assert not list((tmp_path / 'state').glob('*.new'))
        (tmp_path / 'state' / 'targets.json').rmdir()
        assert stays_out(root)


def test_a_remembered_target_that_is_refused_stays_remembered(root: Cgroup, tmp_path: Path) -> None:
    with Daemon(root.path, 'AcceptKernelIssues=fionread splice\n', state=tmp_path) as daemon:
        daemon.ready()
        if not harness.every_issue():
            pytest.skip('this kernel has no issue')
        harness.call('Enable', 's', root.path)
    with Daemon(root.path, state=tmp_path) as daemon:
        daemon.ready()
        assert targets() == [(root.path, 'refused')]
        assert 'was not enabled: ' in detail()
        assert stays_out(root)
        daemon.configure('AcceptKernelIssues=fionread splice\n')
        daemon.reload()
        assert targets() == [(root.path, 'active')]
        must_join(root)
        daemon.configure('')
        harness.call('Disable', 's', root.path)
    with Daemon(root.path, state=tmp_path) as daemon:
        daemon.ready()
        assert targets() == []


def test_churn_leaves_nothing_behind(root: Cgroup) -> None:
    """Cgroups that come and go thousands of times: the target's own, and others beside and below it."""
    with FdStore() as store, Daemon(root.path, store=store) as daemon:
        daemon.ready()
        daemon.heard()
        covered = next(fd for name, fd in store.fds.items() if name.endswith('-sa_cgroups'))
        with Cgroup('service', root) as service:
            enable(service.path)

        def churn() -> None:
            for _round in range(CHURN):
                with contextlib.suppress(FileExistsError):
                    service.directory.mkdir()
                (service.directory / 'nested').mkdir()
                (root.directory / 'beside').mkdir()
                (service.directory / 'nested').rmdir()
                (root.directory / 'beside').rmdir()
                service.directory.rmdir()
            wait_for('waiting')

        def held() -> dict[str, int]:
            process = f'/proc/{daemon.process.pid}'
            fds = os.listdir(f'{process}/fd')
            watches = sum(Path(f'{process}/fdinfo/{fd}').read_text().count('inotify wd') for fd in fds)
            entries = len(libbpf.map_keys(covered, 8))
            return {'fds': len(fds), 'watches': watches, 'entries': entries, 'maps': len(harness.objects()['map'])}

        churn()
        before = held()
        churn()
        assert held() == before
        assert before['entries'] == 0
        with Cgroup('service', root) as again:
            wait_for('active')
            must_join(again)
            assert held()['entries'] == 1
