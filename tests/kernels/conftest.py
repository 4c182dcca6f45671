# SPDX-License-Identifier: GPL-2.0-or-later
"""The package that the guests install, and the archive's present lists."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernels import archive
from tests.support.harness import ROOT


@pytest.fixture(scope='session')
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp('package')
    subprocess.run(['packaging/build-deb', '--output', directory], cwd=ROOT, check=True, capture_output=True)
    return next(directory.glob('sockaccel_*.deb'))


@pytest.fixture(scope='session')
def _archive() -> None:
    archive.refresh()


@pytest.fixture
def job(package: Path, tmp_path: Path) -> Path:
    """What a guest gets, but for the program: the package, and the tests without the source."""
    directory = tmp_path / 'job'
    directory.mkdir()
    shutil.copy(package, directory / 'sockaccel.deb')
    shutil.copy(ROOT / 'pyproject.toml', directory)
    # What a daemon of a test gets, as it is shipped.
    (directory / 'packaging').mkdir()
    shutil.copy(ROOT / 'packaging' / 'programs.conf', directory / 'packaging')
    shutil.copytree(ROOT / 'tests', directory / 'tests', ignore=shutil.ignore_patterns('__pycache__'))
    return directory
