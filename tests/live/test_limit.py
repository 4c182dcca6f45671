# SPDX-License-Identifier: GPL-2.0-or-later
"""A test that hangs is stopped, and what it has started ends with it."""

import os
import subprocess
import sys

import pytest

from tests.support.harness import ROOT, cgroups


@pytest.mark.parametrize('name', ['test_with_context_managers', 'test_that_ends_nothing'])
def test_a_test_that_hangs(name: str) -> None:
    ended = subprocess.run(
        [sys.executable, '-m', 'pytest', '--timeout=2', '-p', 'no:cacheprovider',
         f'tests/support/hanging.py::{name}'],
        # What is left is waited for before it is reported.
        cwd=ROOT, env={**os.environ, 'SOCKACCEL_PATIENCE': '2'}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout + ended.stderr
    assert 'Timeout' in ended.stdout
    assert ('left behind' in ended.stdout) == (name == 'test_that_ends_nothing')
    assert not [cgroup for cgroup in cgroups() if cgroup.endswith('sockaccel-hanging')]
