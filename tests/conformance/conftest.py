# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the conformance tests.

The way sockaccel needs two fixtures from outside: accelerated_cgroup, the directory of a cgroup that an
enabled target of a running daemon covers, and sockaccel_stats, a callable that gives the daemon's counters.
accelerated_containers is a cgroup of a target that allows other network namespaces.
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
from tests.conformance.networks import LOOPBACK
from tests.conformance.results import WAYS, Results

Counters = dict[str, int]
# The cgroup for the way sockaccel where the ends are in different network namespaces.
ACROSS_NETWORKS = 'sockaccel across networks'


class Measurements:
    """Results of whole modules, each measured when it is first asked for."""

    def __init__(self, cgroups: dict[str, Path], stats: Callable[[], Counters]) -> None:
        self._cgroups = cgroups
        self._stats = stats
        self._options = shlex.split(os.environ.get('SOCKACCEL_WORKER_OPTIONS', ''))
        self._measured: dict[tuple[str, str, str], Results] = {}
        # The daemon's counters before and after each module.
        self.counters: dict[str, tuple[Counters, Counters]] = {}

    def of(self, way: str, module: str, network: str = LOOPBACK, *arguments: str) -> Results:
        """What the module's behaviours saw that way; skips the test if the way is switched off.

        arguments: further ones of the worker, always the same for a network.
        """
        directory = self.cgroup(way, network)
        if (way, module, network) not in self._measured:
            before = self._stats()
            options = ['--network', network, '--module', module, *arguments, *self._options]
            self._measured[way, module, network] = runner.run(way, directory, options)
            if way == 'sockaccel' and network == LOOPBACK:
                self.counters[module] = (before, self._stats())
            self._save(way, network)
        return self._measured[way, module, network]

    def cgroup(self, way: str, network: str = LOOPBACK) -> Path:
        """The cgroup in which connections go that way; skips the test if the way is switched off."""
        name = way if way != 'sockaccel' or network == LOOPBACK else ACROSS_NETWORKS
        if name not in self._cgroups:
            pytest.skip(f'the way {way} is switched off by SOCKACCEL_WAYS')
        return self._cgroups[name]

    def _save(self, way: str, network: str) -> None:
        if directory := os.environ.get('SOCKACCEL_RESULTS'):
            parts = (
                measured
                for (name, _, where), measured in self._measured.items()
                if (name, where) == (way, network)
            )
            file = way if network == LOOPBACK else f'{way}-{network}'
            results.save(Path(directory), file, {case: result for part in parts for case, result in part.items()})


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
                cgroups[ACROSS_NETWORKS] = request.getfixturevalue('accelerated_containers')
            cgroups[way] = stack.enter_context(runner.prepared(way, supplied))
        yield Measurements(cgroups, stats)
