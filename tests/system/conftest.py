# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures: the package as built on a machine of each Debian release, and a machine for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harness import ROOT
from tests.system import package, roots
from tests.system.container import Container

OUTPUT = ROOT / 'build' / 'system'


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
