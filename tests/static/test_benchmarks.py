# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/benchmarks is what bench.report makes of the results that are checked in."""

import shutil
from pathlib import Path
from typing import Any

from bench import report, results
from bench.samples import Sample, summary
from tests.support.harness import ROOT

DIRECTORY = ROOT / 'docs/benchmarks'


def test_pages_are_those_of_the_results(tmp_path: Path) -> None:
    shutil.copy(DIRECTORY / 'NOTES.md', tmp_path)
    report.write(results.read(DIRECTORY / 'results.json'), tmp_path)
    for page in tmp_path.iterdir():
        assert page.read_text() == (DIRECTORY / page.name).read_text(), f'{page.name}: run bench.report'


def test_results_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / 'results.json'
    results.write(path, results.read(DIRECTORY / 'results.json'))
    assert path.read_text() == (DIRECTORY / 'results.json').read_text()


def test_a_run_is_a_small_change() -> None:
    for path in DIRECTORY.iterdir():
        if path.suffix in ('.svg', '.json'):
            assert len(path.read_text().splitlines()) < 120, path.name
            assert path.stat().st_size < 64 * 1024, path.name


def test_what_goes_through_a_proxy_has_a_table_of_its_own(tmp_path: Path) -> None:
    found = results.read(DIRECTORY / 'results.json')
    rates = {'direct': 20_000.0, 'nft REDIRECT': 2_000.0, 'intercepted': 2_500.0}
    case: dict[str, Any] = {
        'group': 'sidecar', 'name': 'request/response 64 B', 'unit': 'per second', 'goals': {}, 'share_goal': None,
        'subject': 'intercepted and accelerated',
    }  # fmt: skip
    of_ways = {way: summary([Sample(rate, 50.0, 2e5 / rate, 0.0)]) for way, rate in rates.items()}
    of_ways['intercepted and accelerated'] = summary([Sample(4_000.0, 40.0, 60.0, 0.9)])
    report.write({**found, 'cases': [case | {'ways': of_ways}]}, tmp_path)
    page = (tmp_path / 'README.md').read_text()
    assert '| work | figure | direct | nft REDIRECT | intercepted | intercepted and accelerated |' in page
    for row in (
        'per second | 20,000 ±0 %, × 10.00 | 2,000 ±0 % | 2,500 ±0 %, × 1.25 | 4,000 ±0 %, × 2.00',
        'µs each | 50 | 500 | 400 | 250',
        'µs of CPU each | 60, × 0.40 | 150 | 130, × 0.87 | 100, × 0.67',
    ):
        assert f'| request/response 64 B | {row} |\n' in page
    # And in no other one.
    assert '| sidecar, ' not in page
