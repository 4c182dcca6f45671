# SPDX-License-Identifier: GPL-2.0-or-later
"""What is repaired is private to dbus-next, so another version is refused before it does something else."""

import subprocess
import sys
from pathlib import Path

import pytest

from sockaccel.dbus import dbusnext
from sockaccel.errors import MissingDependency
from tests.support.harness import ROOT


def test_another_version_is_refused() -> None:
    dbusnext.require('0.2.3')
    with pytest.raises(MissingDependency, match=r'dbus-next is version 0\.2\.4, but sockaccel works with 0\.2\.3'):
        dbusnext.require('0.2.4')


@pytest.mark.parametrize(
    ('version', 'said'), [('0.3.0', 'dbus-next is version 0.3.0'), (None, 'package python3-dbus-next 0.2.3')]
)
def test_the_import_says_it(tmp_path: Path, version: str | None, said: str) -> None:
    package = tmp_path / 'dbus_next'
    package.mkdir()
    (package / '__init__.py').touch()
    if version:
        (package / '__version__.py').write_text(f'__version__ = "{version}"\n')
    script = f'import sys; sys.path.insert(0, {str(tmp_path)!r}); import sockaccel.dbus.connection'
    answer = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    last = answer.stderr.splitlines()[-1]
    assert last.startswith('sockaccel.errors.MissingDependency: ')
    assert said in last


def test_one_module_imports_it() -> None:
    for path in (ROOT / 'sockaccel').rglob('*.py'):
        if path.name != 'dbusnext.py':
            assert 'dbus_next' not in path.read_text(), path
