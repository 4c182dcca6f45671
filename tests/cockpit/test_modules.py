# SPDX-License-Identifier: GPL-2.0-or-later
"""The modules of the page that need no browser, and the syntax of all."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.harness import ROOT

MODULES = sorted((ROOT / 'cockpit').glob('*.js'))


@pytest.fixture(autouse=True)
def _settled() -> None:
    """Nothing here touches the kernel."""


@pytest.mark.parametrize('module', MODULES, ids=lambda path: path.name)
def test_a_module_is_javascript(module: Path) -> None:
    checked = subprocess.run(
        ['node', '--input-type=module', '--check'],
        input=module.read_text(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert not checked.returncode, checked.stderr


def test_modules(tmp_path: Path) -> None:
    """By node's own runner, which takes files named .js for modules only where a package.json says so."""
    shutil.copytree(ROOT / 'cockpit', tmp_path / 'cockpit')
    shutil.copytree(ROOT / 'tests/cockpit/modules', tmp_path / 'tests')
    (tmp_path / 'package.json').write_text('{"type": "module"}')
    tests = sorted(map(str, (tmp_path / 'tests').glob('*.mjs')))
    assert tests
    said = subprocess.run(['node', '--test', *tests], capture_output=True, text=True, check=False)
    assert not said.returncode, said.stdout
