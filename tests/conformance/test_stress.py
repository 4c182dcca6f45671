# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing is lost, torn or held for ever, whatever the sizes, the pauses and the switching of targets."""

import os
from collections.abc import Callable

import pytest

from tests.conformance import stress
from tests.conformance.conftest import Measurements
from tests.support.patience import LONG_S

# make soak asks for more.
SECONDS = float(os.environ.get('SOCKACCEL_STRESS_SECONDS', '20'))
pytestmark = pytest.mark.timeout(SECONDS + LONG_S)


def test_plain_tcp_has_no_faults(measurements: Measurements) -> None:
    report = stress.run(measurements.cgroup('plain'), seconds=5)
    assert not report.faults
    assert report.connections > 16


def test_sockaccel_has_no_faults(measurements: Measurements, acceleration_switch: Callable[[], None]) -> None:
    report = stress.run(measurements.cgroup('sockaccel'), seconds=SECONDS, hook=acceleration_switch)
    assert not report.faults
    assert report.connections > 16


def test_unchecked_redirect_fails_at_once(measurements: Measurements) -> None:
    report = stress.run(measurements.cgroup('unchecked'), seconds=2, control=True)
    assert report.faults, 'the stress does not see the faults of an unchecked redirect'
