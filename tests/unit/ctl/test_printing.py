# SPDX-License-Identifier: GPL-2.0-or-later
"""What people read of what the daemon says."""

import json
from typing import Any

import pytest

from sockaccel.ctl import printing, show


def row(**more: Any) -> dict[str, Any]:
    both = {'target': '/x', 'path': 'mixed', 'state': 'joined', 'age_ns': 61_000_000_000, 'netns_cookie': 1}
    both |= {'origin_address': '', 'origin_port': 0}
    for name, port in (('client', 40000), ('server', 5432)):
        both |= {
            f'{name}_address': '::1', f'{name}_port': port, f'{name}_program': name, f'{name}_reason': '',
            f'{name}_redirected_bytes': 1024, f'{name}_tcp_bytes': 1024,
        }  # fmt: skip
    return both | more


def test_connections() -> None:
    head, line = printing.ConnectionTable().lines([row(server_reason='order')])
    assert head.split() == ['CLIENT', 'SERVER', 'PATH', 'WHY', 'TO', 'SERVER', 'TO', 'CLIENT', 'AGE']
    assert line.startswith('[::1]:40000 client  [::1]:5432 server  mixed  order to client')
    assert line.endswith('1m')


def test_rows_that_come_later_stand_below_the_others() -> None:
    table = printing.ConnectionTable()
    first = list(table.lines([row()]))
    assert list(table.lines([])) == []
    (later,) = table.lines([row(client_port=1)])
    assert later.index('[::1]:5432') == first[0].index('SERVER')


@pytest.mark.parametrize('columns', [40, 80, 100])
def test_what_survives_of_a_connection(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, 'width', lambda: columns)
    long = row(
        client_address='fd00:1111:2222:3333:4444:5555:6666:7777', client_reason='cgroup_filter',
        server_reason='cgroup_filter', state='left', client_tcp_bytes=5 * 1024**3, server_tcp_bytes=7,
    )  # fmt: skip
    head, line = printing.ConnectionTable().lines([long])
    if columns > 40:
        assert len(line) <= columns
        assert 'cgroup_filter' in line
    assert ':40000 client' in line if columns == 100 else '0 client' in line
    assert '5.0G' in line
    assert '1.0K' in line
    assert line.index('5.0G') == head.index('TO SERVER')


def test_findings_say_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    printing.findings([
        {'name': 'fionread', 'severity': 'issue', 'sentence': 'FIONREAD is wrong'},
        {'name': 'other', 'severity': 'ok', 'sentence': 'is right'},
    ])  # fmt: skip
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert said.startswith('ISSUE  fionread: FIONREAD is wrong\n')
    assert '--accept fionread TARGET' in said
    assert '--accept other' not in said


def interception(**more: Any) -> dict[str, Any]:
    counters = {
        'led': 12300, 'led_in': 45, 'proxy_down': 60, 'proxy_down_in': 7, 'excepted': 1, 'own_listener': 2,
        'bypassed': 2, 'bypassed_in': 1, 'mptcp': 4,
    }  # fmt: skip
    return {
        'target': 'shop.service', 'proxy': 'envoy.service', 'outbound': 15001, 'inbound': [], 'state': 'active',
        'proxy_is_down': False, 'counters': counters, 'detail': 'cgroup /system.slice/shop.service', **more,
    }  # fmt: skip


def test_interceptions(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, 'width', lambda: 80)
    printing.interceptions([interception(), interception(proxy_is_down=True)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ['LED', 'TARGET', 'PROXY', 'STATE', 'LED', 'REFUSED', 'DIRECT']
    assert lines[1].split() == 'shop.service envoy.service port 15001 active 12345 67 10'.split()
    assert lines[2] == '  cgroup /system.slice/shop.service'
    assert 'proxy down' in lines[3]


def test_numbers_survive_of_an_interception(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, 'width', lambda: 80)
    long = '/system.slice/system-envoy.slice/envoy@shop-frontend-production.service'
    printing.interceptions([interception(target=long, proxy=long, detail=long + long)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].endswith('active  12345  67       10')
    assert 'port 15001' in lines[1]


def test_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {'section': 'S', 'key': 'A', 'value': '1', 'source': ''},
        {'section': 'S', 'key': 'B', 'value': '2', 'source': 'x:3'},
        {'section': 'Target /x', 'key': '', 'value': '', 'source': 'x:5'},
    ]
    printing.configuration(rows, as_json=False)
    assert capsys.readouterr().out == '[S]\nA=1  # default\nB=2  # x:3\n\n[Target /x]\n'
    printing.configuration(rows, as_json=True)
    assert json.loads(capsys.readouterr().out) == rows


def test_policies_of_targets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not the default, and where it is from, also where a line has no room for both."""
    monkeypatch.setattr(show, 'width', lambda: 80)
    many, file = ' '.join(map(str, range(100, 150))), '/etc/sockaccel/sockaccel.conf.d/60-local.conf:7'
    policy: list[printing.Row] = [
        {'key': 'IncludePorts', 'value': many, 'source': file},
        {'key': 'BlockingReaders', 'value': 'yes', 'source': 'set'},
        {'key': 'JoinDelayMs', 'value': '100', 'source': ''},
    ]
    rows: list[printing.Row] = [
        {'name': 'a.service', 'state': 'active', 'detail': 'cgroup /a', 'policy': policy},
        {'name': 'b.service', 'state': 'waiting', 'detail': 'its unit does not run', 'policy': []},
    ]
    printing.targets(rows)
    assert capsys.readouterr().out.splitlines() == [
        'TARGET     STATE    DETAIL',
        'a.service  active   cgroup /a',
        f'  IncludePorts=100 101 102 1…  # {file}',
        '  BlockingReaders=yes          # set',
        'b.service  waiting  its unit does not run',
    ]


def test_no_targets(capsys: pytest.CaptureFixture[str]) -> None:
    printing.targets([])
    assert 'sockaccelctl enable' in capsys.readouterr().out


def test_a_line_is_cut_where_it_is_too_long() -> None:
    assert show.table([['x' * 20]], columns=10) == ['x' * 9 + '…']
