# SPDX-License-Identifier: GPL-2.0-or-later
"""What every machine of a Debian release begins with: the release, and the source that packages are built of."""

from pathlib import Path

import pytest

from tests.system import package, roots


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
