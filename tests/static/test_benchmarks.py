# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/benchmarks is what bench.report makes of the results that are checked in."""

import shutil
from pathlib import Path

from bench import report, results
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
