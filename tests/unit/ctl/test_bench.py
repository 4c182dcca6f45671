# SPDX-License-Identifier: GPL-2.0-or-later
"""The processes of `sockaccelctl bench`, with a file in the place of a cgroup's."""

import os
from pathlib import Path

import pytest

from sockaccel.ctl import bench
from tests.support.poison import Poison


@pytest.fixture
def poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Poison:
    poison = Poison(tmp_path / 'poison')
    monkeypatch.chdir(poison.directory)
    for name, value in poison.environment.items():
        monkeypatch.setenv(name, value)
    return poison


@pytest.mark.parametrize('way', [bench.UNIX, bench.PLAIN])
def test_no_module_of_others_is_run(poison: Poison, tmp_path: Path, way: str) -> None:
    rate, share = bench._run(bench.WORKS[0], way, tmp_path)
    assert rate > 0
    assert share == pytest.approx(0, abs=0.1)
    assert (tmp_path / 'cgroup.procs').read_text() != str(os.getpid())
    assert not poison.taken()


def test_a_measurement_that_fails_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(bench.BenchFailed, match=r'by plain TCP failed: .*No such file or directory'):
        bench._run(bench.WORKS[0], bench.PLAIN, tmp_path / 'nowhere')
