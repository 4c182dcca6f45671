# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures: for each Debian release a root, and the package as built there."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harness import ROOT
from tests.system import roots
from tests.system.container import Container

OUTPUT = ROOT / 'build' / 'system'


@pytest.fixture(scope='session')
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files as a Debian source tree."""
    tree = tmp_path_factory.mktemp('source')
    names = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(
        ['cp', '--parents', '--target-directory', tree, '--', *names.decode().rstrip('\0').split('\0')],
        cwd=ROOT,
        check=True,
    )
    shutil.copytree(tree / 'packaging' / 'debian', tree / 'debian')
    return tree


@pytest.fixture(scope='module', params=roots.RELEASES, ids=lambda release: release.name)
def release(request: pytest.FixtureRequest) -> roots.Release:
    chosen: roots.Release = request.param
    return chosen


@pytest.fixture(scope='module')
def packages(release: roots.Release, source: Path) -> Path:
    """A directory with the package and its .changes, built on a machine of the release."""
    directory = OUTPUT / release.name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with Container(roots.root(release), {'/src': source, '/out': directory}, frozenset({'/out'})) as machine:
        machine.run('/src/packaging/build-deb', '--output', '/out')
    return directory


@pytest.fixture
def machine(release: roots.Release, source: Path, packages: Path) -> Iterator[Container]:
    """A machine without the package; it is in /out, and the source in /src."""
    with Container(roots.root(release), {'/src': source, '/out': packages}) as machine:
        yield machine
