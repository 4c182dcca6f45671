# SPDX-License-Identifier: GPL-2.0-or-later
"""The installed package on each line of kernels: real units, and the core of the conformance suite.

What each guest said and measured stays in build/kernels, for the table in docs/compatibility.md.
"""

import shutil
from pathlib import Path

import pytest

from tests.apps import goproxy
from tests.kernels import archive
from tests.kernels.archive import REFUSED
from tests.kernels.guest import Outcome
from tests.kernels.kept import EVERYTHING_S, boot, verdict
from tests.support.patience import LONG_S

pytestmark = pytest.mark.timeout(EVERYTHING_S + LONG_S)

_REFUSAL = """\
systemctl start sockaccel.service && exit 1
systemctl show --property=StatusText,ExecMainStatus,NRestarts sockaccel.service | tee /run/results/refusal
"""
_EVERYTHING = """\
sockaccel --check >/run/results/findings || exit 1
export SOCKACCEL_WAYS=plain,sockaccel SOCKACCEL_RESULTS=/run/results
export SOCKACCEL_WORKER_OPTIONS='--quick --family ipv4 --reader nonblocking'
# What another kernel could change; each begins with a daemon that compiles, which takes a minute here.
installed='ready or issue or killed or restart_under or splices or confined or capability'
pytest tests/installed -k "$installed"
units=$?
pytest tests/conformance/test_behaviours.py -k 'like_plain_tcp and ipv4 and nonblocking'
behaviours=$?
[ $units = 0 ] && [ $behaviours = 0 ]
"""
# All of it with one daemon, because to compile it takes a minute there.
_PROGRAMS = f"""\
export SOCKACCEL_APPS_TABLE=/run/results/table SOCKACCEL_GO_PROXY=/run/job/{goproxy.NAME}
pytest tests/apps/test_proxies.py tests/apps/test_blocking.py tests/live/test_watchers.py \
    -k 'seen_to_splice or test_blocking or (test_watchers and not upgrade)'
"""
# The lines whose kernels take watchers, oldest and newest and the one between; and what runs there.
WATCHED = ('6.1', '6.12', 'newest')
PACKAGES = (
    'docker.io', 'haproxy', 'mariadb-client', 'mariadb-server', 'nginx-light', 'php-cli', 'php-mysql',
    'python3-redis', 'redis-server', 'redis-tools',
)  # fmt: skip


@pytest.mark.parametrize('line', archive.SERVED)
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
