# SPDX-License-Identifier: GPL-2.0-or-later
"""The same between two network namespaces: over a bridge, and through address translation.

SOCKACCEL_NETWORKS=all runs the whole catalogue there, otherwise one reader and one family of most of it.
"""

import os

import pytest

from tests.conformance.catalogue import Case
from tests.conformance.conftest import Measurements
from tests.conformance.test_behaviours import CASES, CATALOGUE, MODULES, compare
from tests.support.patience import LONG_S

# The first test of a module measures all of it.
pytestmark = pytest.mark.timeout(LONG_S)
EVERYTHING = os.environ.get('SOCKACCEL_NETWORKS') == 'all'
ARGUMENTS = () if EVERYTHING else ('--family', 'ipv4', '--reader', 'nonblocking')
NETWORKS = ('bridge', 'dnat')


def wanted(case: Case) -> bool:
    # Thousands of connections take their time in a machine that is shared.
    brief = (case.family, case.reader) == ('ipv4', 'nonblocking') and CATALOGUE[case.behaviour].module != 'load'
    return EVERYTHING or brief


CHOSEN = [case for case in CASES if wanted(case)]
CHOSEN_MODULES = [
    module for module in MODULES if any(CATALOGUE[case.behaviour].module == module for case in CHOSEN)
]


@pytest.mark.parametrize('module', CHOSEN_MODULES)
@pytest.mark.parametrize('network', NETWORKS)
def test_behaviours_work_over_plain_tcp(network: str, module: str, measurements: Measurements) -> None:
    results = measurements.of('plain', module, network, *ARGUMENTS)
    assert not {str(case): result.observation for case, result in results.items() if not result.usable}


@pytest.mark.parametrize('case', CHOSEN, ids=str)
@pytest.mark.parametrize('network', NETWORKS)
def test_sockaccel_is_like_plain_tcp(network: str, case: Case, measurements: Measurements) -> None:
    module = CATALOGUE[case.behaviour].module
    plain, accelerated = (measurements.of(way, module, network, *ARGUMENTS) for way in ('plain', 'sockaccel'))
    if case not in plain:
        pytest.skip('left out by SOCKACCEL_WORKER_OPTIONS')
    compare(case, plain[case], accelerated[case], network)
