# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics are what Prometheus's own parsers take, with the names that users depend on."""

import argparse
import asyncio
import io
import types
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client import parser as prometheus
from prometheus_client.openmetrics import parser as openmetrics

from sockaccel.core.ends import Pair
from sockaccel.core.listing import Filter
from sockaccel.ctl import listing, metrics, scrape
from sockaccel.ctl.client import Client, NotRunning, Refused
from sockaccel.kernel.abi import COUNTERS
from sockaccel.kernel.ends import Ends
from tests.support.memory_kernel import packed_ends

PARSERS: dict[str, Callable[[str], Iterable[Metric]]] = {
    metrics.OPENMETRICS: openmetrics.text_string_to_metric_families,
    metrics.PROMETHEUS: prometheus.text_string_to_metric_families,
}
PREFIX = {'total': '', 'connection': 'connection_reason_', 'message': 'message_reason_'}
STATS = {PREFIX[counter.kind] + counter.name: 0 for counter in COUNTERS} | {
    'redirected_bytes': 10, 'redirected_messages': 2, 'tcp_bytes': 5, 'tcp_messages': 1, 'connections': 3,
    'message_reason_order': 1, 'connection_reason_short': 4, 'events_lost': 6,
}  # fmt: skip
# A unit can have a backslash in its name; anybody may make a cgroup with the rest.
ODD = '/a"b\\x2d\nc'


class Daemon(Client):
    """Answers as the daemon would. running: whether there is one."""

    def __init__(self, *, running: bool = True) -> None:
        self.running = running
        self.asked: list[str] = []

    async def is_running(self) -> bool:
        return self.running

    async def properties(self) -> dict[str, Any]:
        return {'Version': '1.2', 'KernelRelease': '6.1.0-x', 'Degraded': ''}

    async def call(self, member: str, signature: str = '', *arguments: Any) -> Any:
        self.asked.append(member)
        if member == 'TargetStats' and arguments == ('gone.service',):
            raise Refused('org.sockaccel1.Error.UnknownTarget', 'it is gone')
        return {
            'ListTargets': [
                {'name': 'x.service', 'state': 'active'}, {'name': ODD, 'state': 'waiting'},
                {'name': 'gone.service', 'state': 'draining'}, {'name': 'x.service', 'state': 'draining'},
            ],
            'ListFindings': [{'name': 'fionread', 'severity': 'issue'}, {'name': 'splice', 'severity': 'ok'}],
            'Stats': STATS, 'TargetStats': STATS,
        }[member]  # fmt: skip


@pytest.fixture(autouse=True)
def three_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    async def parts(_client: Client, _wanted: Filter) -> AsyncIterator[tuple[listing.Listing, list[Pair]]]:
        layout = Ends(lambda: iter(())).layout
        seen = listing.Listing(layout, [], 0, programs=True, targets={1: 'x.service'})
        ends = layout.ends(packed_ends(3))
        yield seen, list(zip(ends, ends, strict=True))

    monkeypatch.setattr(listing, 'parts', parts)


def text(form: str, *, running: bool = True) -> tuple[str, int]:
    return asyncio.run(metrics.read(Daemon(running=running), form))


def samples(families: Iterable[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_both_formats_say_the_same() -> None:
    said = samples(PARSERS[metrics.OPENMETRICS](text(metrics.OPENMETRICS)[0]))
    assert said == samples(PARSERS[metrics.PROMETHEUS](text(metrics.PROMETHEUS)[0]))
    x = ('target', 'x.service')
    assert {
        ('sockaccel_up', ()): 1,
        ('sockaccel_build_info', (('kernel', '6.1.0-x'), ('version', '1.2'))): 1,
        ('sockaccel_redirected_bytes_total', (x,)): 10,
        ('sockaccel_tcp_bytes_total', (x,)): 5,
        ('sockaccel_messages_total', (('path', 'redirect'), x)): 2,
        ('sockaccel_messages_total', (('path', 'tcp'), x)): 1,
        ('sockaccel_tcp_messages_total', (('reason', 'order'), x)): 1,
        ('sockaccel_left_connections_total', (('reason', 'short'), x)): 4,
        ('sockaccel_joined_connections_total', (x,)): 3,
        ('sockaccel_connections', (('state', 'joined'), x)): 3,
        ('sockaccel_connections', (('state', 'left'), x)): 0,
        ('sockaccel_target_state', (('state', 'active'), x)): 1,
        ('sockaccel_target_state', (('state', 'draining'), x)): 0,
        ('sockaccel_target_state', (('state', 'waiting'), ('target', ODD))): 1,
        ('sockaccel_redirected_bytes_total', (('target', ODD),)): 10,
        ('sockaccel_kernel_issue', (('issue', 'fionread'),)): 1,
        ('sockaccel_kernel_issue', (('issue', 'splice'),)): 0,
        ('sockaccel_events_lost_total', ()): 6,
    }.items() <= said.items()
    assert not [name for name, labels in said if ('target', 'gone.service') in labels and 'state' not in name]
    assert all(name.startswith('sockaccel_') for name, _labels in said)


@pytest.mark.parametrize('form', metrics.FORMATS)
def test_families_have_a_type_and_a_text(form: str) -> None:
    found = {family.name: family for family in PARSERS[form](text(form)[0])}
    assert all(family.documentation and family.type != 'unknown' for family in found.values()), found
    assert found['sockaccel_redirected_bytes'].type == 'counter'
    assert found['sockaccel_connections'].type == 'gauge'


def test_without_a_daemon_it_says_so() -> None:
    """And starts none: systemd would, because of any call."""
    daemon = Daemon(running=False)
    said, status = asyncio.run(metrics.read(daemon, metrics.OPENMETRICS))
    assert (samples(PARSERS[metrics.OPENMETRICS](said)), status) == ({('sockaccel_up', ()): 0}, 3)
    assert daemon.asked == []


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / 'sockaccel.prom'
    options = argparse.Namespace(format=metrics.PROMETHEUS, output=str(file))
    for _time in range(2):
        assert asyncio.run(metrics.metrics(Daemon(), options)) == 0
        assert file.read_text() == text(metrics.PROMETHEUS)[0]
        assert file.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [file]
    options.output = str(tmp_path / 'nowhere' / 'x.prom')
    with pytest.raises(metrics.NotWritten, match='nowhere'):
        asyncio.run(metrics.metrics(Daemon(), options))


def answer(request: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, str], bytes]:
    """Status line, headers and body."""
    out = io.BytesIO()
    monkeypatch.setattr('sys.stdin', types.SimpleNamespace(buffer=io.BytesIO(request)))
    monkeypatch.setattr('sys.stdout', types.SimpleNamespace(buffer=out))
    assert asyncio.run(scrape.scrape(Daemon(), argparse.Namespace())) == 0
    head, _empty, body = out.getvalue().partition(b'\r\n\r\n')
    first, *lines = head.decode().split('\r\n')
    return first, dict(line.split(': ', 1) for line in lines), body


def test_a_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    for accept, form in (
        ('application/openmetrics-text;version=1.0.0', metrics.OPENMETRICS),
        ('*/*', metrics.PROMETHEUS),
    ):
        request = f'GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n'.encode()
        first, headers, body = answer(request, monkeypatch)
        assert first == 'HTTP/1.1 200 OK'
        assert headers['Content-Type'] == metrics.CONTENT_TYPES[form]
        assert int(headers['Content-Length']) == len(body)
        assert body.decode() == text(form)[0]
    first, headers, body = answer(b'HEAD /metrics?x HTTP/1.0\n\n', monkeypatch)
    assert (first, body) == ('HTTP/1.1 200 OK', b'')


@pytest.mark.parametrize(
    ('request_', 'status'),
    [
        (b'', '400'),
        (b'GET /metrics HTTP/1.1\r\n', '400'),
        (b'nonsense\r\n\r\n', '400'),
        (b'POST /metrics HTTP/1.1\r\n\r\n', '400'),
        (b'GET / HTTP/1.1\r\n\r\n', '404'),
        (b'GET /metrics HTTP/1.1\r\nX: ' + b'x' * 20000 + b'\r\n\r\n', '431'),
        (b'GET /metrics HTTP/1.1\r\n' + b'X: x\r\n' * 5000, '431'),
    ],
)
def test_what_is_no_request_for_metrics(request_: bytes, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _headers, body = answer(request_, monkeypatch)
    assert first.split()[1] == status
    assert b'sockaccel_' not in body


def test_no_daemon_is_no_failure_of_a_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ended(_client: Client, _wanted: Filter) -> AsyncIterator[tuple[listing.Listing, list[Pair]]]:
        raise NotRunning('it has ended meanwhile')
        yield

    monkeypatch.setattr(listing, 'parts', ended)
    _first, _headers, body = answer(b'GET /metrics HTTP/1.1\r\n\r\n', monkeypatch)
    assert samples(PARSERS[metrics.PROMETHEUS](body.decode())) == {('sockaccel_up', ()): 0}
