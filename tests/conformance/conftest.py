# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the conformance tests.

The way sockaccel needs two fixtures from outside: accelerated_cgroup, the directory of a cgroup that an
enabled target of a running daemon covers, and sockaccel_stats, a callable that gives the daemon's counters.
Without a daemon, SOCKACCEL_WAYS=plain,unchecked leaves that way out. SOCKACCEL_RESULTS names a directory
that takes the results for the table of docs/compatibility.md. SOCKACCEL_WORKER_OPTIONS are passed to the worker,
such as '--quick' on an emulated machine.
"""

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance import results, runner
from tests.conformance.results import WAYS, Results

Counters = dict[str, int]


class Measurements:
    """Results of whole modules, each measured when it is first asked for."""

    def __init__(self, cgroups: dict[str, Path], stats: Callable[[], Counters]) -> None:
        self._cgroups = cgroups
        self._stats = stats
        self._options = shlex.split(os.environ.get('SOCKACCEL_WORKER_OPTIONS', ''))
        self._measured: dict[tuple[str, str], Results] = {}
        # The daemon's counters before and after each module.
        self.counters: dict[str, tuple[Counters, Counters]] = {}

    def of(self, way: str, module: str) -> Results:
        """What the module's behaviours saw that way; skips the test if the way is switched off."""
        directory = self.cgroup(way)
        if (way, module) not in self._measured:
            before = self._stats()
            self._measured[way, module] = runner.run(way, directory, ['--module', module, *self._options])
            if way == 'sockaccel':
                self.counters[module] = (before, self._stats())
            self._save(way)
        return self._measured[way, module]

    def cgroup(self, way: str) -> Path:
        """The cgroup in which connections go that way; skips the test if the way is switched off."""
        if way not in self._cgroups:
            pytest.skip(f'the way {way} is switched off by SOCKACCEL_WAYS')
        return self._cgroups[way]

    def _save(self, way: str) -> None:
        if directory := os.environ.get('SOCKACCEL_RESULTS'):
            parts = (measured for (name, _), measured in self._measured.items() if name == way)
            results.save(Path(directory), way, {case: result for part in parts for case, result in part.items()})


@pytest.fixture(scope='session')
def measurements(request: pytest.FixtureRequest) -> Iterator[Measurements]:
    """All cgroups and the control are there before the first test, so that no test seems to leave them behind."""
    cgroups: dict[str, Path] = {}
    stats: Callable[[], Counters] = dict
    with contextlib.ExitStack() as stack:
        for way in os.environ.get('SOCKACCEL_WAYS', ','.join(WAYS)).split(','):
            supplied = None
            if way == 'sockaccel':
                supplied = request.getfixturevalue('accelerated_cgroup')
                stats = request.getfixturevalue('sockaccel_stats')
            cgroups[way] = stack.enter_context(runner.prepared(way, supplied))
        yield Measurements(cgroups, stats)
