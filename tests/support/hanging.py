# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests that hang, for tests/live/test_limit.py; nobody else collects them."""

import subprocess

from tests.support.harness import Cgroup


def test_with_context_managers() -> None:
    with (
        Cgroup('sockaccel-hanging') as cgroup,
        subprocess.Popen(['sleep', 'infinity'], preexec_fn=cgroup.enter) as it,
    ):
        try:
            it.wait()
        finally:
            it.kill()


def test_that_ends_nothing() -> None:
    cgroup = Cgroup('sockaccel-hanging')
    subprocess.Popen(['sleep', 'infinity'], preexec_fn=cgroup.enter).wait()
