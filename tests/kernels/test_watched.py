# SPDX-License-Identifier: GPL-2.0-or-later
"""What only watchers can do, on the kernels that take them: without the parts that it needs, each in turn, too."""

from pathlib import Path

import pytest

from tests.kernels import archive
from tests.kernels.guest import Outcome
from tests.kernels.kept import EVERYTHING_S, boot, verdict
from tests.kernels.test_kernels import WATCHED
from tests.support.patience import LONG_S

pytestmark = pytest.mark.timeout(EVERYTHING_S + LONG_S)

_WATCHED = """\
pytest tests/live/test_mixed.py tests/live/test_watchers.py -k 'not upgrade'
readers=$?
pytest tests/live/test_audit.py -k 'what_programs_do or probation'
audits=$?
pytest tests/installed/test_evidence.py
evidence=$?
[ $readers = 0 ] && [ $audits = 0 ] && [ $evidence = 0 ]
"""


@pytest.mark.parametrize('line', WATCHED, ids=lambda line: f'{line} watched')
def test_watched(line: str, job: Path, _archive: None) -> None:  # noqa: PT019
    report = boot(archive.newest(line), f'{line}-watched', job, _WATCHED, EVERYTHING_S)
    print(report.said)
    assert report.outcome is Outcome.PASSED, verdict(report)
