# SPDX-License-Identifier: GPL-2.0-or-later
"""The installed package on each line of kernels: real units, and the core of the conformance suite.

What each guest said and measured stays in build/kernels, for the table in docs/compatibility.md.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.kernels import archive, guest
from tests.kernels.archive import Kernel
from tests.kernels.guest import Outcome, Report
from tests.support.harness import ROOT
from tests.support.patience import LONG_S

OUTPUT = ROOT / 'build' / 'kernels'
REFUSED = '5.10'
# A guest is ten times slower than the machine, or twenty where others use that too: everything takes a quarter of
# an hour, or half of one.
EVERYTHING_S = 2 * LONG_S
pytestmark = pytest.mark.timeout(EVERYTHING_S + LONG_S)

_REFUSAL = """\
#!/bin/sh
mkdir -p /run/results
dpkg --install sockaccel.deb || exit 1
systemctl start sockaccel.service && exit 1
systemctl show --property=StatusText,ExecMainStatus,NRestarts sockaccel.service | tee /run/results/refusal
"""
_EVERYTHING = """\
#!/bin/sh
mkdir -p /run/results
dpkg --install sockaccel.deb || exit 1
sockaccel --check >/run/results/findings || exit 1
export SOCKACCEL_SLOWER=40 SOCKACCEL_WAYS=plain,sockaccel SOCKACCEL_RESULTS=/run/results
export SOCKACCEL_WORKER_OPTIONS='--quick --family ipv4 --reader nonblocking'
pytest='python3 -m pytest -p no:cacheprovider --timeout=1200 -q --color=no --durations=5'
chosen='ready or bus or issue or journal or killed or restart or splices or confined or capability'
$pytest tests/installed -k "$chosen"
units=$?
$pytest --verbose --verbose tests/conformance/test_behaviours.py -k 'like_plain_tcp and ipv4 and nonblocking'
behaviours=$?
[ $units = 0 ] && [ $behaviours = 0 ]
"""


def boot(kernel: Kernel, line: str, job: Path, script: str, seconds: float) -> Report:
    (job / 'run').write_text(script)
    (job / 'run').chmod(0o755)
    report = guest.run(kernel, job, seconds)
    output = OUTPUT / line
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    for name, text in report.files.items():
        (output / name).write_text(text)
    (output / 'said').write_text(report.said)
    (output / 'console').write_text(report.console)
    summary = {'release': kernel.release, 'version': kernel.version, 'outcome': report.outcome.value}
    (output / 'summary.json').write_text(json.dumps(summary))
    return report


def verdict(report: Report) -> str:
    """Why it is not a pass: the kernel's own complaints, or the end of what the job said."""
    complaints = guest.complaints(report.console + report.files.get('dmesg', ''))
    return '\n'.join([report.outcome.value, *complaints, report.said[-6000:], report.console[-1000:]])


@pytest.mark.parametrize('line', [line for line in archive.LINES if line != REFUSED])
def test_kernel(line: str, job: Path, _archive: None) -> None:  # noqa: PT019
    report = boot(archive.newest(line), line, job, _EVERYTHING, EVERYTHING_S)
    print(report.said)
    assert report.outcome is Outcome.PASSED, verdict(report)


def test_kernel_that_must_be_refused(job: Path, _archive: None) -> None:  # noqa: PT019
    report = boot(archive.newest(REFUSED), REFUSED, job, _REFUSAL, LONG_S)
    assert report.outcome is Outcome.PASSED, verdict(report)
    refusal = report.files['refusal']
    assert 'ExecMainStatus=69' in refusal
    assert 'NRestarts=0' in refusal
    assert 'use kernel 6.1.123' in refusal
