# SPDX-License-Identifier: GPL-2.0-or-later
"""The proxy in Go (proxy.go), compiled."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.patience import LONG_S

NAME = 'go-proxy'


def build(directory: Path) -> Path:
    """Compile it into a directory; returns its path. Raises CalledProcessError."""
    if not shutil.which('go'):
        pytest.fail('go is missing: run tools/setup apps')
    made = directory / NAME
    cache = directory / 'cache'
    # Without C it runs on every machine of this architecture.
    environment = {
        **os.environ,
        'GOCACHE': str(cache),
        'GO111MODULE': 'off',
        'HOME': str(directory),
        'CGO_ENABLED': '0',
    }
    source = Path(__file__).with_name('proxy.go')
    subprocess.run(['go', 'build', '-o', made, source], env=environment, check=True, timeout=LONG_S)
    shutil.rmtree(cache)
    return made
