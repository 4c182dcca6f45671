# SPDX-License-Identifier: GPL-2.0-or-later
"""The installed package on each line of kernels: real units, and the core of the conformance suite.

What each guest said and measured stays in build/kernels, for the table in docs/compatibility.md.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.apps import goproxy
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
# What another kernel could change; each begins with a daemon that compiles, which takes a minute here.
chosen='ready or issue or killed or restart_under or splices or confined or capability'
$pytest tests/installed -k "$chosen"
units=$?
$pytest --verbose --verbose tests/conformance/test_behaviours.py -k 'like_plain_tcp and ipv4 and nonblocking'
behaviours=$?
[ $units = 0 ] && [ $behaviours = 0 ]
"""
# All of it with one daemon, because to compile it takes a minute there.
_PROGRAMS = f"""\
#!/bin/sh
mkdir -p /run/results
dpkg --install --no-triggers sockaccel.deb || exit 1
export SOCKACCEL_SLOWER=40 SOCKACCEL_APPS_TABLE=/run/results/table SOCKACCEL_GO_PROXY=/run/job/{goproxy.NAME}
pytest='python3 -m pytest -p no:cacheprovider --timeout=1200 -q --color=no --durations=10'
exec $pytest tests/apps/test_proxies.py tests/apps/test_blocking.py tests/live/test_watchers.py \
    -k 'seen_to_splice or test_blocking or (test_watchers and not upgrade)'
"""
# The lines whose kernels take watchers, oldest and newest and the one between; and what runs there.
WATCHED = ('6.1', '6.12', 'newest')
PACKAGES = (
    'docker.io', 'haproxy', 'mariadb-client', 'mariadb-server', 'nginx-light', 'php-cli', 'php-mysql',
    'python3-redis', 'redis-server', 'redis-tools',
)  # fmt: skip


def boot(kernel: Kernel, name: str, job: Path, script: str, seconds: float, **root: Any) -> Report:
    """Run a script in a guest. name: of what is left in build/kernels. root: see `guest.run`."""
    (job / 'run').write_text(script)
    (job / 'run').chmod(0o755)
    report = guest.run(kernel, job, seconds, **root)
    output = OUTPUT / name
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


@pytest.mark.parametrize('line', WATCHED, ids=lambda line: f'{line} with programs')
def test_programs(line: str, job: Path, tmp_path: Path, _archive: None) -> None:  # noqa: PT019
    """Other people's programs where sockaccel sees what they do, which this machine's kernel need not allow."""
    goproxy.build(tmp_path)
    shutil.copy(tmp_path / goproxy.NAME, job)
    name = f'{line}-programs'
    report = boot(archive.newest(line), name, job, _PROGRAMS, EVERYTHING_S, kind='programs', more=PACKAGES)
    print(report.said)
    assert report.outcome is Outcome.PASSED, verdict(report)


def test_kernel_that_must_be_refused(job: Path, _archive: None) -> None:  # noqa: PT019
    report = boot(archive.newest(REFUSED), REFUSED, job, _REFUSAL, LONG_S)
    assert report.outcome is Outcome.PASSED, verdict(report)
    refusal = report.files['refusal']
    assert 'ExecMainStatus=69' in refusal
    assert 'NRestarts=0' in refusal
    assert 'use kernel 6.1.123' in refusal
