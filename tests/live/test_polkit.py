# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may: calls by busctl, as an ordinary user, with python-dbusmock in the place of polkit."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sockaccel.bus.manager import Manager
from sockaccel.dbus.interface import methods_of
from tests.support.flood import BUS, connect
from tests.support.harness import ROOT, PrivateBus, stop, wait_until
from tests.support.messages import raw
from tests.support.patience import PATIENCE_S
from tests.support.surface import Surface

NOBODY = 65534
ACTIONS = {name: method.action for name, method in methods_of(Manager).items()}
CHANGES: dict[str, tuple[str, ...]] = {
    'Enable': ('s', '/x'),
    'EnableWithOptions': ('sa{sv}', '/x', '0'),
    'SetPolicy': ('sa{sv}', '/x', '0'),
    'Disable': ('s', '/x'),
    'DisableWithOptions': ('sa{sv}', '/x', '0'),
    'ResetCounters': ('s', ''),
    'Reload': (),
}
# Changes, and an audit, for which this daemon over a kernel in memory has too little: what is asked is who may.
OTHERS: dict[str, tuple[str, ...]] = {
    'Audit': ('sa{sv}', '/x', '0'),
    'ForgetProgram': ('s', '/x'),
    'Intercept': ('ssa{sv}', '/x', '/y', '0'),
    'Release': ('s', '/x'),
}
READS: dict[str, tuple[str, ...]] = {
    'Stats': (),
    'TargetStats': ('s', '/x'),
    'StatsSinceReset': ('s', ''),
    'ListTargets': (),
    'ListConnections': ('a{sv}tt', '0', '0', '0'),
    'StreamEnds': ('a{sv}', '0'),
    'DescribeCounters': (),
    'ListFindings': (),
    'ListInterceptions': (),
    'ListPrograms': (),
    'ListConfiguration': (),
    'Subscribe': ('a{sv}', '0'),
}
POLKIT = ('org.freedesktop.PolicyKit1', '/org/freedesktop/PolicyKit1/Authority', 'org.freedesktop.DBus.Mock')
MANAGER = ('org.sockaccel1', '/org/sockaccel1', 'org.sockaccel1.Manager')
LOG = ('org.sockaccel1', '/org/freedesktop/LogControl1', 'org.freedesktop.LogControl1')


@pytest.fixture(scope='module')
def private_bus() -> Iterator[PrivateBus]:
    with PrivateBus() as bus:
        yield bus


@pytest.fixture
def surface(private_bus: PrivateBus) -> Iterator[Surface]:
    with Surface(3) as surface:
        yield surface


@pytest.fixture
def polkit(private_bus: PrivateBus) -> Iterator[None]:
    process = start_polkit(private_bus)
    yield
    stop(process)


def start_polkit(bus: PrivateBus) -> 'subprocess.Popen[bytes]':
    process = subprocess.Popen(
        ['/usr/bin/python3', '-m', 'dbusmock', '--system', '--template', 'polkitd'],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: busctl(bus, 'status', POLKIT[0]).returncode == 0, 'polkitd is there')
    return process


def busctl(bus: PrivateBus, *arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ['busctl', f'--address={bus.address}', *arguments], capture_output=True, text=True, check=False, user=user
    )


def call(bus: PrivateBus, member: str, *arguments: str, user: int | None = NOBODY) -> str:
    """What busctl says, '' if the call was answered."""
    answer = busctl(bus, 'call', *MANAGER, member, *arguments, user=user)
    return '' if answer.returncode == 0 else answer.stderr


def tell_polkit(bus: PrivateBus, member: str, *arguments: str) -> None:
    assert busctl(bus, 'call', *POLKIT, member, *arguments).returncode == 0


# The default of Debian's system bus, and then ours.
POLICY = f"""\
<policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <include>{ROOT}/packaging/dbus/org.sockaccel1.conf</include>"""


def test_the_policy_of_the_bus() -> None:
    """Anybody may speak to the daemon, in what it offers, and nobody else may be it."""
    with PrivateBus(POLICY) as bus, Surface():
        assert call(bus, 'Stats') == ''
        assert 'needs root' in call(bus, 'Reload')
        assert busctl(bus, 'get-property', *LOG, 'LogLevel', user=NOBODY).returncode == 0
        assert busctl(bus, 'introspect', *MANAGER[:2], user=NOBODY).returncode == 0
        other = busctl(bus, 'call', *MANAGER[:2], 'org.example.Other', 'Stats', user=NOBODY)
        assert 'denied' in other.stderr.lower()
        own = ('call', 'org.freedesktop.DBus', '/org/freedesktop/DBus', 'org.freedesktop.DBus', 'RequestName')
        for name in ('org.sockaccel1', 'org.sockaccel1.Other'):
            said = busctl(bus, *own, 'su', name, '0', user=NOBODY).stderr
            assert 'Access denied' in said, said


def test_signals_come_from_root_alone() -> None:
    """Whoever has the name gets no other's; only polkit, which need not be root, may tell of a change."""
    with PrivateBus(POLICY) as bus, connect(bus.address) as daemon:
        own = b'\x0e\0\0\0org.sockaccel1\0\0' + bytes(4)
        path = '/org/freedesktop/DBus'
        daemon.sendall(raw('RequestName', path=path, destination=BUS, interface=BUS, signature='su', body=own))
        forged = (
            'emit',
            '--destination=org.sockaccel1',
            '/x',
            'org.freedesktop.systemd1.Manager',
            'Reloading',
            'b',
        )
        assert busctl(bus, *forged, '0', user=NOBODY).returncode in (0, 1)
        assert busctl(bus, *forged, '1').returncode == 0
        polkit = ('emit', '--destination=org.sockaccel1', '/x', f'{POLKIT[0]}.Authority', 'Changed')
        assert busctl(bus, *polkit, user=NOBODY).returncode == 0
        received = b''
        while b'Changed' not in received:
            received += daemon.recv(65536)
    # One of the two, root's.
    assert received.count(b'Reloading') == 1


def test_every_member_is_a_change_or_a_read() -> None:
    assert ACTIONS.keys() == CHANGES.keys() | OTHERS.keys() | READS.keys()
    assert {name for name, action in ACTIONS.items() if action is None} == READS.keys()


@pytest.mark.usefixtures('surface', 'polkit')
class TestWithPolkit:
    @pytest.mark.parametrize('member', CHANGES | OTHERS)
    def test_no(self, private_bus: PrivateBus, member: str) -> None:
        said = call(private_bus, member, *(CHANGES | OTHERS)[member])
        assert f'polkit does not let this user call {member} (action {ACTIONS[member]})' in said

    @pytest.mark.parametrize('member', CHANGES)
    def test_yes_is_for_one_action(self, private_bus: PrivateBus, member: str) -> None:
        assert call(private_bus, 'Enable', 's', '/x', user=None) == ''
        action = ACTIONS[member]
        assert action
        tell_polkit(private_bus, 'SetAllowed', 'as', '1', action)
        assert call(private_bus, member, *CHANGES[member]) == ''
        for other, arguments in (CHANGES | OTHERS).items():
            if ACTIONS[other] != action:
                assert 'polkit does not let' in call(private_bus, other, *arguments)

    def test_who_may_inspect_sees_whose_connections_are(self, private_bus: PrivateBus) -> None:
        surface_rows = ('call', *MANAGER, 'ListConnections', 'a{sv}tt')
        everything, by_program = ('0', '0', '0'), ('1', 'program', 's', 'psql', '0', '0')
        with_programs = busctl(private_bus, *surface_rows, *everything).stdout
        assert '"client_program" s "psql"' in with_programs
        assert '"server_pid" u 100' in with_programs
        said = busctl(private_bus, *surface_rows, *everything, user=NOBODY).stdout
        assert '"client_program" s ""' in said
        assert 'psql' not in said
        assert '"client_pid" u 0' in said
        assert '/x.service' not in said
        refused = busctl(private_bus, *surface_rows, *by_program, user=NOBODY).stderr
        assert 'org.sockaccel1.inspect' in refused
        tell_polkit(private_bus, 'SetAllowed', 'as', '1', 'org.sockaccel1.inspect')
        for wanted in (everything, by_program):
            assert '"client_program" s "psql"' in busctl(private_bus, *surface_rows, *wanted, user=NOBODY).stdout

    def test_sockaccelctl_shows_what_its_user_may_know(self, private_bus: PrivateBus) -> None:
        def listed(*more: str) -> 'subprocess.CompletedProcess[str]':
            return subprocess.run(
                [sys.executable, '-m', 'sockaccel.ctl.cli', 'connections', '--json', *more],
                cwd=ROOT, env={**os.environ, 'DBUS_SYSTEM_BUS_ADDRESS': private_bus.address}, user=NOBODY,
                capture_output=True, text=True, check=False,
            )  # fmt: skip

        rows = json.loads(listed('--port=10001').stdout)
        assert [(row['client_port'], row['client_program'], row['client_pid']) for row in rows] == [(10001, '', 0)]
        refused = listed('--program=psql')
        assert (refused.returncode, refused.stdout) == (4, '')
        assert 'org.sockaccel1.inspect' in refused.stderr
        tell_polkit(private_bus, 'SetAllowed', 'as', '1', 'org.sockaccel1.inspect')
        rows = json.loads(listed('--program=psql').stdout)
        assert {row['server_program'] for row in rows} == {'postgres'}

    @pytest.mark.parametrize('member', READS)
    def test_reading_is_free(self, private_bus: PrivateBus, member: str) -> None:
        assert call(private_bus, 'Enable', 's', '/x', user=None) == ''
        assert call(private_bus, member, *READS[member]) == ''

    def test_setting_a_property_is_a_change(self, private_bus: PrivateBus) -> None:
        set_it = ('set-property', *LOG, 'LogLevel', 's', 'warning')
        assert 'polkit does not let' in busctl(private_bus, *set_it, user=NOBODY).stderr
        assert busctl(private_bus, 'get-property', *LOG, 'LogLevel').stdout == 's "info"\n'
        tell_polkit(private_bus, 'SetAllowed', 'as', '1', 'org.sockaccel1.set-log-level')
        assert busctl(private_bus, *set_it, user=NOBODY).returncode == 0
        assert busctl(private_bus, 'get-property', *LOG, 'LogLevel', user=NOBODY).stdout == 's "warning"\n'

    def test_an_open_dialogue_stops_nobody_else(self, private_bus: PrivateBus) -> None:
        tell_polkit(private_bus, 'SimulateHangActions', 'as', '1', 'org.sockaccel1.enable')
        tell_polkit(private_bus, 'SetAllowed', 'as', '2', 'org.sockaccel1.enable', 'org.sockaccel1.reload')
        waiting = asking(private_bus)
        assert call(private_bus, 'Stats') == ''
        assert call(private_bus, 'Reload') == ''
        assert call(private_bus, 'Enable', 's', '/other', user=None) == ''
        assert waiting.poll() is None
        tell_polkit(private_bus, 'ReleaseHangingCalls')
        assert waiting.wait(PATIENCE_S) == 0

    def test_a_caller_that_left_changes_nothing(self, private_bus: PrivateBus) -> None:
        tell_polkit(private_bus, 'SimulateHangActions', 'as', '1', 'org.sockaccel1.enable')
        tell_polkit(private_bus, 'SetAllowed', 'as', '1', 'org.sockaccel1.enable')
        stop(asking(private_bus))
        tell_polkit(private_bus, 'ReleaseHangingCalls')
        # The answer of polkit and this call go the same way, so it has been looked at when this is answered.
        assert call(private_bus, 'Stats') == ''
        assert '/waits' not in busctl(private_bus, 'call', *MANAGER, 'ListTargets').stdout


def asking(bus: PrivateBus) -> 'subprocess.Popen[str]':
    """A call that waits for polkit's answer."""
    process = subprocess.Popen(
        ['busctl', f'--address={bus.address}', f'--timeout={PATIENCE_S}',
         'call', *MANAGER, 'Enable', 's', '/waits'],
        user=NOBODY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    hanging = ('call', *POLKIT, 'HaveHangingCalls')
    wait_until(lambda: busctl(bus, *hanging).stdout == 'b true\n', 'polkit is asked')
    assert process.stderr
    process.stderr.close()
    return process


@pytest.mark.usefixtures('surface')
class TestWithoutPolkit:
    @pytest.mark.parametrize('member', CHANGES)
    def test_only_root_may(self, private_bus: PrivateBus, member: str) -> None:
        assert 'needs root' in call(private_bus, member, *CHANGES[member])
        assert call(private_bus, 'Enable', 's', '/x', user=None) == ''
        assert call(private_bus, member, *CHANGES[member], user=None) == ''

    @pytest.mark.parametrize('member', OTHERS)
    def test_nobody_else_may(self, private_bus: PrivateBus, member: str) -> None:
        assert 'needs root' in call(private_bus, member, *OTHERS[member])

    def test_the_caller_is_named(self, private_bus: PrivateBus, surface: Surface) -> None:
        assert call(private_bus, 'Enable', 's', '/named', user=None) == ''
        assert 'Enabled "/named" (cgroup "/named"), asked by uid 0, busctl[' in surface.stop()

    def test_only_root_sees_whose_connections_are(self, private_bus: PrivateBus) -> None:
        rows = ('call', *MANAGER, 'ListConnections', 'a{sv}tt', '0', '0', '0')
        assert 'psql' in busctl(private_bus, *rows).stdout
        assert 'psql' not in busctl(private_bus, *rows, user=NOBODY).stdout


def test_an_open_question_is_limited_per_user(private_bus: PrivateBus, surface: Surface, polkit: None) -> None:
    """A thousand calls at once, of which none waits for ever."""
    script = (
        'import asyncio, os\n'
        'from sockaccel.ctl.client import Client, Refused\n'
        'async def one(client):\n'
        '    try:\n'
        '        await client.call("Enable", "s", "/x")\n'
        '    except Refused as exc:\n'
        '        return exc.name\n'
        'async def main():\n'
        '    async with Client() as client:\n'
        '        tasks = [asyncio.ensure_future(one(client)) for _ in range(1000)]\n'
        '        pending = tasks\n'
        '        while len(pending) > 64:\n'
        '            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)\n'
        # Comes after all others, and is answered after those that are refused.
        '        await client.call("Stats")\n'
        '        done = [task for task in tasks if task.done()]\n'
        '        print(len(done), {task.result() for task in done})\n'
        '        for task in tasks: task.cancel()\n'
        # From here on, because a checkout may be for root alone.
        f'os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n'
        'asyncio.run(main())\n'
    )
    tell_polkit(private_bus, 'SimulateHangActions', 'as', '1', 'org.sockaccel1.enable')
    answer = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.stdout == "936 {'org.sockaccel1.Error.LimitExceeded'}\n", answer.stderr
    assert call(private_bus, 'Stats') == ''


def test_a_thousand_calls_at_once_are_answered(private_bus: PrivateBus, surface: Surface) -> None:
    script = (
        'import asyncio\n'
        'from sockaccel.ctl.client import Client\n'
        'async def main():\n'
        '    async with Client() as client:\n'
        '        answers = await asyncio.gather(*(client.call("ListTargets") for _ in range(1000)))\n'
        '        print(len(answers))\n'
        'asyncio.run(main())\n'
    )
    answer = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.stdout == '1000\n', answer.stderr


def test_the_end_of_the_bus_amid_a_question_is_no_defect() -> None:
    with PrivateBus() as bus:
        polkit = start_polkit(bus)
        with Surface() as surface:
            tell_polkit(bus, 'SimulateHang', 'b', 'true')
            waiting = asking(bus)
            bus.stop()
            surface.process.wait(PATIENCE_S)
            surface.stop()
            assert 'never retrieved' not in surface.said
        stop(waiting)
        stop(polkit)
