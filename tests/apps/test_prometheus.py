# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's Prometheus and node_exporter read the metrics, and every panel of the dashboard has a value."""

import contextlib
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import traffic
from tests.support.harness import ROOT, Cgroup, PrivateBus, call, stop, wait_until

CONTROL = [sys.executable, '-m', 'sockaccel.ctl.cli']
DASHBOARD = json.loads((ROOT / 'docs/grafana.json').read_text())
QUERIES = [target['expr'] for panel in DASHBOARD['panels'] for target in panel['targets']]
# What Grafana puts a backslash before where a regular expression shall have a name.
_SPECIAL = re.compile(r"[$^*{}\[\]'+?.()|]")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return int(sock.getsockname()[1])


def answer(url: str) -> str:
    """'' while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return str(response.read().decode())
    except (urllib.error.URLError, ConnectionError):
        return ''


class Prometheus:
    """It scrapes the ports every ten seconds, which is how long it waits for an answer too."""

    def __init__(self, directory: Path, *ports: int) -> None:
        self.port = free_port()
        config = {
            'global': {'scrape_interval': '10s', 'scrape_timeout': '10s'},
            'scrape_configs': [
                {'job_name': 'all', 'static_configs': [{'targets': [f'127.0.0.1:{port}' for port in ports]}]}
            ],
        }
        # JSON is YAML.
        (directory / 'prometheus.yml').write_text(json.dumps(config))
        self.log = (directory / 'log').open('w')
        self.process = subprocess.Popen(
            ['prometheus', f'--config.file={directory}/prometheus.yml', f'--storage.tsdb.path={directory}/data',
             f'--web.listen-address=127.0.0.1:{self.port}'],
            stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def values(self, query: str) -> list[dict[str, Any]]:
        asked = urllib.parse.urlencode({'query': query})
        said = json.loads(
            answer(f'http://127.0.0.1:{self.port}/api/v1/query?{asked}') or '{"data": {"result": []}}'
        )
        assert said.get('status', 'success') == 'success', said
        return list(said['data']['result'])

    def close(self) -> None:
        stop(self.process)
        self.log.close()


def chosen(name: str) -> str:
    """What stands for $target where somebody has chosen one: Grafana's own escapes, in a string of PromQL."""
    return _SPECIAL.sub(r'\\\\\g<0>', name.replace('\\', '\\\\\\\\'))


@pytest.fixture(scope='module')
def traffic_of_target(target: Cgroup) -> Iterator[traffic.Pair]:
    """A connection that is accelerated, and one that is not: each kind of reason has occurred."""
    if not shutil.which('prometheus'):
        pytest.skip('prometheus is not installed: tools/setup apps')
    with target.inside(), traffic.listen() as listener:
        pair, blocking = traffic.connect(listener), traffic.connect(listener, blocking=True)
    with contextlib.closing(pair), contextlib.closing(blocking):
        traffic.accelerate(pair)
        traffic.exchange(pair)
        wait_until(
            lambda: call('TargetStats', 's', target.path)['connection_reason_blocking_end'], 'it is left to TCP'
        )
        yield pair


@pytest.fixture(scope='module')
def scraped(bus: PrivateBus, traffic_of_target: traffic.Pair) -> Iterator[int]:
    """The port of what a socket unit with Accept=yes is."""
    port = free_port()
    process = subprocess.Popen(
        ['systemd-socket-activate', '--accept', '--inetd', f'--listen=127.0.0.1:{port}',
         f'--setenv=DBUS_SYSTEM_BUS_ADDRESS={bus.address}', '--setenv=PYTHONPATH', *CONTROL, 'scrape'],
        cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: 'sockaccel_up 1' in answer(f'http://127.0.0.1:{port}/metrics'), 'it answers')
    yield port
    stop(process)


@pytest.fixture(scope='module')
def prometheus(scraped: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It scrapes sockaccel, and a node_exporter that reads its file."""
    directory = tmp_path_factory.mktemp('prometheus')
    file = directory / 'sockaccel.prom'
    command = [*CONTROL, 'metrics', '--format=prometheus', f'--output={file}']
    subprocess.run(command, cwd=ROOT, check=True)
    port = free_port()
    exporter = subprocess.Popen(
        ['prometheus-node-exporter', '--collector.disable-defaults', '--collector.textfile',
         f'--collector.textfile.directory={directory}', f'--web.listen-address=127.0.0.1:{port}'],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    server = Prometheus(directory, scraped, port)
    yield server
    server.close()
    stop(exporter)


def test_both_ways_bring_the_same(prometheus: Prometheus, scraped: int) -> None:
    names = 'count by (__name__) ({__name__=~"sockaccel_.*",instance="127.0.0.1:%d"})'
    wait_until(lambda: len(prometheus.values('sockaccel_up == 1')) == 2, 'both were read')
    instances = [int(each['metric']['instance'].rpartition(':')[2]) for each in prometheus.values('sockaccel_up')]
    found = [{each['metric']['__name__'] for each in prometheus.values(names % port)} for port in instances]
    assert found[0] == found[1]
    assert 'sockaccel_redirected_bytes_total' in found[0]
    assert not prometheus.values('node_textfile_scrape_error != 0')


def test_a_name_is_chosen_as_it_is() -> None:
    assert chosen('/a.b\\x-1') == r'/a\\.b\\\\x-1'


@pytest.mark.parametrize('choice', ['all', 'one'])
@pytest.mark.parametrize('query', QUERIES)
def test_every_panel_finds_something(
    prometheus: Prometheus, traffic_of_target: traffic.Pair, target: Cgroup, query: str, choice: str
) -> None:
    """A number, while there is traffic: the share of nothing is none."""
    name = '.*' if choice == 'all' else chosen(target.path)
    asked = query.replace('$__rate_interval', '1m').replace('$target', name)
    assert '$' not in asked

    def answered() -> bool:
        traffic.exchange(traffic_of_target)
        numbers = [float(each['value'][1]) for each in prometheus.values(asked)]
        return bool(numbers) and all(map(math.isfinite, numbers))

    wait_until(answered, f'{asked} has a value')


def test_a_panel_of_a_metric_that_nobody_has_finds_nothing(prometheus: Prometheus) -> None:
    wait_until(lambda: bool(prometheus.values('sockaccel_up == 1')), 'it was read')
    assert prometheus.values('sum(rate(sockaccel_no_such_bytes_total[1m]))') == []
    assert prometheus.values('sum(rate(sockaccel_tcp_bytes_total{target=~"/nobody"}[1m]))') == []


def test_the_choice_of_the_dashboard_offers_the_target(prometheus: Prometheus, target: Cgroup) -> None:
    (query,) = [each['query']['query'] for each in DASHBOARD['templating']['list'] if each['type'] == 'query']
    found = re.fullmatch(r'label_values\((\w+), (\w+)\)', query)
    assert found, query
    metric, label = found.groups()
    offered = f'group by ({label}) ({metric})'
    wait_until(
        lambda: target.path in [each['metric'][label] for each in prometheus.values(offered)], 'it is offered'
    )
