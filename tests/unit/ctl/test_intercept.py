# SPDX-License-Identifier: GPL-2.0-or-later
"""What sockaccelctl says of a target that is led from now on."""

from typing import Any

import pytest

from sockaccel.ctl import intercept, show


def row(**more: Any) -> dict[str, Any]:
    return {
        'target': 'shop.service', 'proxy': 'envoy.service', 'outbound': 15001, 'inbound': [], 'state': 'active',
        'detail': 'cgroup /system.slice/shop.service', 'when_down': 'refuse', **more,
    }  # fmt: skip


def said(capsys: pytest.CaptureFixture[str], **more: Any) -> list[str]:
    intercept.tell(row(**more))
    return capsys.readouterr().out.splitlines()


@pytest.fixture(autouse=True)
def _columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, 'width', lambda: 80)


def test_what_goes_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys) == [
        '"shop.service" is led to "envoy.service" (active: cgroup',
        '  /system.slice/shop.service).',
        '  connections that it makes: to port 15001',
        'While the proxy does not listen they are refused.',
    ]


def test_what_comes_in(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, outbound=0, inbound=['8080=15006', '9090=15007'], when_down='bypass')
    assert lines[2:] == [
        '  connections to its port 8080: to port 15006',
        '  connections to its port 9090: to port 15007',
        'While the proxy does not listen they go direct.',
    ]


def test_sixteen_ports_and_long_names_keep_within_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(
        capsys, detail='cgroup ' + '/a.slice' * 20, inbound=[f'{port}=15006' for port in range(65520, 65536)]
    )
    # A word that has no spaces is broken too.
    assert max(map(len, lines)) <= 80
