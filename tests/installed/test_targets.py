# SPDX-License-Identifier: GPL-2.0-or-later
"""Targets are real units, with real traffic."""

from tests.installed import system
from tests.installed.system import attempt, issues, journal, redirects, run, targets
from tests.support.harness import wait_until

SOCKET = '[Socket]\nListenStream=127.0.0.1:7712\n'


def test_enable_by_the_bus(sockaccel: None) -> None:
    with system.echo() as target:
        run(*system.CALL, 'Enable', 's', target)
        assert targets() == {target: 'active'}
        with system.load():
            redirects()
        run(*system.CALL, 'Disable', 's', target)
        assert target not in targets() or targets()[target] == 'draining'


def test_kernel_issue_refuses_until_it_is_accepted() -> None:
    run('systemctl', 'start', 'sockaccel.service')
    with system.echo() as target:
        known = issues()
        refused = attempt(*system.CALL, 'Enable', 's', target)
        assert (refused.returncode != 0) == bool(known)
        for name in known:
            assert f'--accept {name}' in refused.stderr
        run('sockaccelctl', 'enable', *(f'--accept={name}' for name in known), target)
        assert targets() == {target: 'active'}


def test_refusal_is_a_sentence(sockaccel: None) -> None:
    refused = attempt(*system.CALL, 'Enable', 's', 'postgresql')
    assert refused.returncode == 1
    assert 'target "postgresql" is neither a unit name' in refused.stderr


def test_unit_that_does_not_exist_waits_until_it_does(sockaccel: None) -> None:
    """In a place where nobody looks for it without systemd's word."""
    refused = attempt(*system.CALL, 'Enable', 's', 'sa-late.service')
    assert refused.returncode == 1
    assert 'systemd does not know unit "sa-late.service": check its name' in refused.stderr
    run(*system.CALL, 'EnableWithOptions', 'sa{sv}', 'sa-late.service', '1', 'wait', 'b', 'true')
    assert targets() == {'sa-late.service': 'waiting'}
    text = '[Service]\nExecStart=/bin/sleep infinity\nSlice=sa-other.slice\n'
    with system.service('sa-late.service', text) as late:
        run('systemctl', 'start', late)
        wait_until(lambda: targets() == {late: 'active'}, 'its start is noticed')


def test_what_is_removed_is_waited_for(sockaccel: None) -> None:
    text = '[Service]\nExecStart=/bin/sleep infinity\n'
    with system.service('sa-gone.service', text) as gone:
        run('sockaccelctl', 'enable', gone)
    run('systemctl', 'restart', 'sockaccel.service')
    assert targets() == {gone: 'waiting'}


def test_the_root_slice_is_a_target(sockaccel: None) -> None:
    run('sockaccelctl', 'enable', '-.slice')
    assert targets() == {'-.slice': 'active'}
    run('sockaccelctl', 'disable', '-.slice')


def test_journal_has_fields(sockaccel: None) -> None:
    with system.echo() as target:
        run('sockaccelctl', 'enable', target)
        with system.load():
            redirects()
        lines = journal(f'SOCKACCEL_TARGET={target}')
        enabled = next(line for line in lines if line['MESSAGE'].startswith('Enabled'))
        explained = run('journalctl', '--boot', '--catalog', f'MESSAGE_ID={enabled["MESSAGE_ID"]}', '--no-pager')
        assert f'{target} is accelerated' in explained
        assert any(line.get('SOCKACCEL_DST') == '127.0.0.1:7711' for line in lines), lines[-5:]
        assert {line['SYSLOG_IDENTIFIER'] for line in lines} == {'sockaccel'}
        assert {line['_SYSTEMD_UNIT'] for line in lines} == {'sockaccel.service'}


def test_unit_restart_is_followed(sockaccel: None) -> None:
    with system.echo() as target:
        run('sockaccelctl', 'enable', target)
        with system.load():
            redirects()
        for _time in range(2):
            run('systemctl', 'restart', target)
            wait_until(lambda: targets() == {target: 'active'}, 'the new cgroup is found')
            with system.load():
                redirects()


def test_unit_that_moves_to_another_slice_is_followed(sockaccel: None) -> None:
    with system.echo() as target:
        run('sockaccelctl', 'enable', target)
        text = (system.UNITS / target).read_text()
        system.write_unit(target, f'{text}Slice=sa-other.slice\n')
        run('systemctl', 'restart', target)
        wait_until(
            lambda: f'/sa.slice/sa-other.slice/{target}' in run('sockaccelctl', 'status'),
            'its new place is found',
        )
        with system.load():
            redirects()


def test_stopped_unit_waits(sockaccel: None) -> None:
    with system.echo() as target:
        run('sockaccelctl', 'enable', target)
        run('systemctl', 'stop', target)
        wait_until(lambda: targets() == {target: 'waiting'}, 'its end is noticed')
        run('systemctl', 'start', target)
        wait_until(lambda: targets() == {target: 'active'}, 'its start is noticed')
        with system.load():
            redirects()


def test_socket_activated_service(sockaccel: None) -> None:
    """The listener is older than the service, and systemd's."""
    service = f'[Service]\nType=notify\n{system.python("echo")}'
    with system.service('sa-wake.service', service) as target, system.service('sa-wake.socket', SOCKET) as socket:
        run('systemctl', 'start', socket)
        run('sockaccelctl', 'enable', target)
        assert targets() == {target: 'waiting'}
        with system.load(port=7712):
            wait_until(lambda: targets() == {target: 'active'}, 'its start is noticed')
        # Its first connections came before there was a cgroup to know them by.
        with system.load(port=7712):
            redirects()
