# SPDX-License-Identifier: GPL-2.0-or-later
"""org.sockaccel1 as its users meet it: by busctl and by sockaccelctl."""

import json
import os
import subprocess
from typing import Any

import pytest

from tests.support import harness
from tests.support.harness import Cgroup, Daemon, PrivateBus
from tests.support.tracing import Trace
from tests.support.traffic import exchange, pair, ports

pytestmark = pytest.mark.usefixtures('daemon')


def busctl(bus: PrivateBus, *arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ['busctl', f'--address={bus.address}', 'call', 'org.sockaccel1', '/org/sockaccel1',
         'org.sockaccel1.Manager', *arguments],
        capture_output=True, text=True, check=False, user=user,
    )  # fmt: skip


def test_stats_are_counters_by_name(bus: PrivateBus) -> None:
    answer = busctl(bus, 'Stats')
    assert answer.stdout.startswith('a{st} ')
    assert '"redirected_bytes" ' in answer.stdout


@pytest.mark.parametrize(
    ('target', 'named'),
    [
        ('', '""'),
        ('nonsense', '"nonsense"'),
        ('nosuch.service', '"nosuch.service"'),
        ('/etc', '"/etc"'),
        ('/sys/kernel', '"/sys/kernel"'),
        ('/proc/self', '"/proc/self"'),
        ('/../etc', '"/../etc"'),
        ('/nowhere/at/all', '"/nowhere/at/all"'),
        ('x' * 5000, '(5000 characters)'),
    ],
)
def test_enable_of_nonsense_names_it_and_changes_nothing(bus: PrivateBus, target: str, named: str) -> None:
    before = harness.targets()
    accept = ['1', 'AcceptKernelIssues', 'as', str(len(harness.every_issue())), *harness.every_issue()]
    answer = busctl(bus, 'EnableWithOptions', 'sa{sv}', target, *accept)
    assert answer.returncode == 1
    assert named in answer.stderr
    assert 'Traceback' not in answer.stderr
    assert harness.targets() == before


def test_a_target_outside_the_root_is_refused(bystander: Cgroup) -> None:
    with Cgroup(f'sockaccel-outside-{os.getpid()}') as outside:
        answer = harness.control('enable', *(f'--accept={name}' for name in harness.every_issue()), outside.path)
        assert answer.returncode == 1
        assert f'"{outside.path}"' in answer.stderr
        assert 'outside' in answer.stderr


def test_enable_and_disable_may_be_repeated(root_cgroup: Cgroup) -> None:
    with Cgroup('repeated', root_cgroup) as cgroup:
        accept = [f'--accept={name}' for name in harness.every_issue()]
        before = harness.targets()
        for _again in range(2):
            assert harness.control('enable', *accept, cgroup.path).returncode == 0
            assert [row[0] for row in harness.targets()].count(cgroup.path) == 1
        assert harness.control('disable', cgroup.path).returncode == 0
        answer = harness.control('disable', cgroup.path)
        assert answer.returncode == 1
        assert 'is not enabled, so nothing was changed' in answer.stderr
        assert harness.targets() == before


def test_a_unit_without_systemd_is_found_by_its_name(root_cgroup: Cgroup) -> None:
    with Cgroup('sockaccel-web.service', root_cgroup) as cgroup:
        harness.enable('sockaccel-web.service', *harness.every_issue())
        rows = {name: (state, detail) for name, state, detail in harness.targets()}
        assert rows['sockaccel-web.service'] == ('active', f'cgroup {cgroup.path}')
        harness.call('Disable', 's', 'sockaccel-web.service')


def test_a_kernel_issue_must_be_accepted(bus: PrivateBus, root_cgroup: Cgroup) -> None:
    issues = harness.every_issue()
    with Cgroup('careful', root_cgroup) as cgroup:
        answer = busctl(bus, 'Enable', 's', cgroup.path)
        if not issues:
            assert answer.returncode == 0
            harness.call('Disable', 's', cgroup.path)
            return
        assert answer.returncode == 1
        sentences = [row['sentence'] for row in harness.call('ListFindings') if row['severity'] == 'issue']
        assert all(sentence in answer.stderr for sentence in sentences)
        assert ' '.join(f'--accept {name}' for name in issues) in answer.stderr
        assert cgroup.path not in [row[0] for row in harness.targets()]
        assert harness.control('enable', '--accept=nonsense', cgroup.path).returncode == 1


def test_an_issue_accepted_in_the_configuration(root_cgroup: Cgroup) -> None:
    with (
        PrivateBus(),
        Cgroup(f'sockaccel-accepts-{os.getpid()}') as cgroup,
        Daemon(cgroup.path, 'AcceptKernelIssues=fionread splice\n') as daemon,
    ):
        daemon.ready()
        assert harness.control('enable', cgroup.path).returncode == 0


@pytest.mark.parametrize(
    'arguments',
    [
        ('EnableWithOptions', 'sa{sv}', '/x', '1', 'nonsense', 's', 'x'),
        ('EnableWithOptions', 'sa{sv}', '/x', '1', 'AcceptKernelIssues', 'b', 'true'),
        ('Enable', 'i', '5'),
        ('Nonsense',),
    ],
)
def test_wrong_arguments_give_an_error(bus: PrivateBus, arguments: tuple[str, ...]) -> None:
    answer = busctl(bus, *arguments)
    assert answer.returncode == 1
    assert 'Call failed' in answer.stderr
    assert 'Traceback' not in answer.stderr
    assert 'internal error' not in answer.stderr


def test_without_polkit_only_root_may_change(bus: PrivateBus, target: Cgroup) -> None:
    before = harness.targets()
    for member in ('Enable', 'Disable'):
        answer = busctl(bus, member, 's', target.path, user=65534)
        assert answer.returncode == 1
        assert 'needs root' in answer.stderr
    assert busctl(bus, 'Stats', user=65534).returncode == 0
    assert harness.targets() == before


def test_status_tells_what_is_going_on(target: Cgroup) -> None:
    answer = harness.control('status')
    assert answer.returncode == 0
    assert target.path in answer.stdout
    assert 'Connections now: ' in answer.stdout
    assert 'kernel' in answer.stdout
    everything = json.loads(harness.control('status', '--json').stdout)
    assert target.path in everything['Targets']
    assert everything['KernelRelease'] == os.uname().release


def test_doctor_shows_every_finding() -> None:
    answer = harness.control('doctor')
    findings = harness.call('ListFindings')
    assert answer.returncode == (1 if harness.every_issue() else 0)
    for finding in findings:
        assert finding['name'] in answer.stdout
    assert json.loads(harness.control('doctor', '--json').stdout) == findings


def test_stats_of_one_target(target: Cgroup) -> None:
    answer = harness.control('stats', '--json', f'--target={target.path}')
    assert json.loads(answer.stdout).keys() == harness.call('Stats').keys()
    assert harness.control('stats', '--target=nosuch.service').returncode == 1


def test_exit_status_without_daemon() -> None:
    with PrivateBus():
        answer = harness.control('status')
    assert answer.returncode == 3
    assert 'systemctl enable --now sockaccel' in answer.stderr
    assert harness.control('nonsense').returncode == 2


def test_trace_follows_both_ends(target: Cgroup) -> None:
    with Trace('--json', f'--target={target.path}') as trace:
        with pair(target) as made:
            client, server = ports(made.client), ports(made.server)
            exchange(made)

        def ours(lines: list[str]) -> list[dict[str, Any]]:
            events = [json.loads(line) for line in lines]
            return [event for event in events if (event['local_port'], event['remote_port']) in (client, server)]

        trace.wait_until(
            lambda lines: [event['kind'] for event in ours(lines)].count('closed') == 2,
            'event for each closed end',
        )
        events = ours(trace.lines)
        assert trace.interrupt() == ''
    assert sorted(event['active'] for event in events if event['kind'] == 'joined') == [False, True]
    assert {event['target'] for event in events} == {target.path}
