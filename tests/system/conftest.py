# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures: for each Debian release a root, and the package as built there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harness import ROOT
from tests.system import package, roots
from tests.system.container import Container

OUTPUT = ROOT / 'build' / 'system'


@pytest.fixture(scope='session')
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files as a Debian source tree."""
    tree = tmp_path_factory.mktemp('source')
    package.copy_source(tree)
    return tree


@pytest.fixture(scope='module', params=roots.RELEASES, ids=lambda release: release.name)
def release(request: pytest.FixtureRequest) -> roots.Release:
    chosen: roots.Release = request.param
    return chosen


@pytest.fixture(scope='module')
def packages(release: roots.Release, source: Path) -> Path:
    """A directory with the package and its .changes, built on a machine of the release."""
    directory = OUTPUT / release.name
    package.build(roots.root(release), source, directory)
    return directory


@pytest.fixture
def machine(release: roots.Release, source: Path, packages: Path) -> Iterator[Container]:
    """A machine without the package; it is in /out, and the source in /src."""
    with Container(roots.root(release), {'/src': source, '/out': packages}) as machine:
        yield machine
