# SPDX-License-Identifier: GPL-2.0-or-later
"""What reaches beyond one network namespace, on each line of kernels: proxies, containers, adopted connections.

A choice of the tests that this machine's kernel has in tests/live and tests/conformance.
"""

from pathlib import Path

import pytest

from tests.kernels import archive
from tests.kernels.guest import Outcome
from tests.kernels.kept import EVERYTHING_S, boot, verdict
from tests.support.patience import LONG_S

pytestmark = pytest.mark.timeout(EVERYTHING_S + LONG_S)
PACKAGES = ('nftables',)
# What makes networks, and what nftables asks the kernel for by name.
MODULES = (
    'bridge', 'nft_chain_nat', 'nft_ct', 'nft_masq', 'nft_nat', 'nft_redir', 'tun', 'veth',
)  # fmt: skip
_BEGIN = """\
export SOCKACCEL_WAYS=plain,sockaccel SOCKACCEL_RESULTS=/run/results SOCKACCEL_WORKER_OPTIONS='--quick'
"""
# A daemon compiles for a minute there. So what needs one of its own is a choice.
PARTS = {
    'led': """\
pytest tests/live/test_intercept.py tests/live/test_inbound.py -k "not by_the_command_line and not by_a_file \\
    and not what_cannot_be and not (test_intercept and a_stop) and not (test_inbound and come_and_go)"
""",
    'pairs': """\
live=tests/live
pytest $live/test_pairing.py $live/test_attacks.py \\
    $live/test_namespaces.py::test_a_rule_takes_effect_within_two_heartbeats \\
    $live/test_adoption.py::test_a_connection_is_adopted_when_its_target_is_enabled[open] \\
    $live/test_adoption.py::test_busy_connections_lose_nothing_whatever_happens \\
    $live/test_widened.py::test_a_client_outside_the_target_behind_a_translation[192.0.2.1] \\
    tests/conformance/test_networks.py::test_sockaccel_is_like_plain_tcp \\
    -k 'not bridge and (not dnat or order: or fork:)'
""",
}


@pytest.mark.parametrize('part', PARTS)
@pytest.mark.parametrize('line', archive.SERVED)
def test_reach(line: str, part: str, job: Path, _archive: None) -> None:  # noqa: PT019
    report = boot(
        archive.newest(line), f'{line}-{part}', job, _BEGIN + PARTS[part], EVERYTHING_S,
        kind='networks', more=PACKAGES, modules=MODULES,
    )  # fmt: skip
    print(report.said)
    assert report.outcome is Outcome.PASSED, verdict(report)
