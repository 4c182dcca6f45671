# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian packages, built on a machine of a release from the tracked files."""

import shutil
import subprocess
from pathlib import Path

from tests.support.harness import ROOT
from tests.system.container import Container


def copy_source(tree: Path) -> None:
    """The tracked files as a Debian source tree, into an empty directory."""
    names = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(
        ['cp', '--parents', '--target-directory', tree, '--', *names.decode().rstrip('\0').split('\0')],
        cwd=ROOT,
        check=True,
    )
    shutil.copytree(tree / 'packaging' / 'debian', tree / 'debian')


def build(root: Path, source: Path, directory: Path) -> None:
    """Put the packages and their .changes into a directory, in place of what was there."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with Container(root, {'/src': source, '/out': directory}, frozenset({'/out'})) as machine:
        machine.run('/src/packaging/build-deb', '--output', '/out')
