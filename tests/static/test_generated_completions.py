# SPDX-License-Identifier: GPL-2.0-or-later
"""The completions that are checked in are those of the present argument parser."""

import subprocess
import sys

from tests.support.harness import ROOT


def test_completions_are_fresh() -> None:
    answer = subprocess.run(
        [sys.executable, ROOT / 'tools/generate-completions', '--check'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
