# SPDX-License-Identifier: GPL-2.0-or-later
"""An application sees over sockaccel what it sees over plain TCP, and these tests would notice if not."""

import errno
import functools

import pytest

from sockaccel.kernel import watched
from tests.conformance.catalogue import Case, catalogue
from tests.conformance.conftest import Measurements
from tests.conformance.differences import DIFFERENCES, declared, unknown
from tests.conformance.networks import LOOPBACK
from tests.conformance.results import Result, differences
from tests.support.patience import LONG_S

# The first test of a module measures all of it.
pytestmark = pytest.mark.timeout(LONG_S)
CATALOGUE = catalogue()
CASES = sorted(
    (case for behaviour in CATALOGUE.values() for case in behaviour.cases()),
    key=lambda case: CATALOGUE[case.behaviour].module,
)
MODULES = sorted({behaviour.module for behaviour in CATALOGUE.values()})
CONTROL_CASES = [case for case in CASES if case.reader in CATALOGUE[case.behaviour].control_fails]


@functools.cache
def takes_watchers() -> bool:
    """Whether this kernel lets sockaccel see what programs do with their sockets."""
    return watched.refusal(watched.WATCHERS[watched.RECV_WATCHER], watched.NO_FUNCTION) == errno.EINVAL


def measured(measurements: Measurements, way: str, case: Case) -> Result:
    results = measurements.of(way, CATALOGUE[case.behaviour].module)
    if case not in results:
        pytest.skip('left out by SOCKACCEL_WORKER_OPTIONS')
    return results[case]


def compare(case: Case, plain: Result, accelerated: Result, network: str = LOOPBACK) -> None:
    """Fail if sockaccel differs where nothing is declared, or is not redirecting what it should."""
    if reason := plain.observation.get('unsupported'):
        # A member may be refused for another reason before.
        pytest.skip(reason)
    differing = differences(plain, accelerated)
    entry = declared(case, network)
    undeclared = {key: values for key, values in differing.items() if not (entry and entry.allows(key))}
    assert not undeclared, pretty(undeclared, 'sockaccel')
    if entry and entry.certain and not (entry.seen_by_watchers and takes_watchers()):
        assert differing, f'declared but not seen any more, remove it: {entry.advice}'

    paths = {path for ways in accelerated.warm for path in ways}
    if case.reader == 'nonblocking' and not CATALOGUE[case.behaviour].stays_tcp:
        assert 'tcp' not in paths, f'no redirect after the warm-up, so this shows nothing: {accelerated.warm}'
    else:
        assert 'redirect' not in paths, f'redirected what must be left to TCP: {accelerated.warm}'


def pretty(differing: dict[str, tuple[object, object]], way: str) -> str:
    lines = (f'{key}: plain {plain!r}, {way} {other!r}' for key, (plain, other) in differing.items())
    return '\n' + '\n'.join(lines)


@pytest.mark.parametrize('module', MODULES)
def test_behaviours_work_over_plain_tcp(module: str, measurements: Measurements) -> None:
    results = measurements.of('plain', module)
    assert not {str(case): result.observation for case, result in results.items() if not result.usable}


@pytest.mark.parametrize('module', MODULES)
def test_unchecked_redirect_is_measured(module: str, measurements: Measurements) -> None:
    assert measurements.of('unchecked', module).keys() == measurements.of('plain', module).keys()


@pytest.mark.parametrize('case', CASES, ids=str)
def test_sockaccel_is_like_plain_tcp(case: Case, measurements: Measurements) -> None:
    compare(case, measured(measurements, 'plain', case), measured(measurements, 'sockaccel', case))


@pytest.mark.parametrize('case', CONTROL_CASES, ids=str)
def test_unchecked_redirect_is_caught(case: Case, measurements: Measurements) -> None:
    plain = measured(measurements, 'plain', case)
    if reason := plain.observation.get('unsupported'):
        pytest.skip(reason)
    assert differences(plain, measured(measurements, 'unchecked', case)), 'this behaviour does not see the fault'


def test_redirected_bytes_are_counted(measurements: Measurements) -> None:
    measurements.of('sockaccel', 'order')
    before, after = measurements.counters['order']
    grown = [name for name in after if 'redirect' in name and after[name] > before.get(name, 0)]
    assert grown, f'no counter of redirects has grown: {before} {after}'


def test_declared_differences_name_behaviours() -> None:
    assert not list(unknown(set(CATALOGUE)))
    pairs = [(entry.behaviour, reader) for entry in DIFFERENCES for reader in entry.readers]
    assert len(pairs) == len(set(pairs))
    assert all(set(entry.readers) <= set(CATALOGUE[entry.behaviour].readers) for entry in DIFFERENCES)
