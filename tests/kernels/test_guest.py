# SPDX-License-Identifier: GPL-2.0-or-later
"""Each way in which a guest can end is told from the others."""

from pathlib import Path

import pytest

from tests.kernels import archive, guest
from tests.kernels.guest import Outcome
from tests.support.patience import LONG_S

LINE = '6.12'
pytestmark = pytest.mark.timeout(2 * LONG_S)


@pytest.mark.parametrize(
    ('script', 'outcome', 'seconds'),
    [
        ('exit 0', Outcome.PASSED, LONG_S),
        ('exit 1', Outcome.FAILED, LONG_S),
        ('echo "<4>WARNING: CPU: 0 PID: 1 at a test" >/dev/kmsg', Outcome.WARNING, LONG_S),
        ('echo c >/proc/sysrq-trigger; sleep infinity', Outcome.PANIC, LONG_S),
        ('systemctl poweroff --force --force; sleep infinity', Outcome.NO_RESULT, LONG_S),
        # Whether it has come to its job by then or not.
        ('sleep infinity', Outcome.HANG, 40),
    ],
    ids=lambda value: value.value if isinstance(value, Outcome) else '',
)
def test_outcome(script: str, outcome: Outcome, seconds: float, tmp_path: Path, _archive: None) -> None:  # noqa: PT019
    (tmp_path / 'run').write_text(f'#!/bin/sh\n{script}\n')
    (tmp_path / 'run').chmod(0o755)
    report = guest.run(archive.newest(LINE), tmp_path, seconds)
    assert report.outcome is outcome, report.said + report.console
