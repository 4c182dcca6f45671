# SPDX-License-Identifier: GPL-2.0-or-later
"""What systemd says about the units, without running them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.harness import ROOT

UNITS = sorted((ROOT / 'packaging').glob('*.service'))
# What "systemd-analyze security" says at most, of 10.
EXPOSURE = {'sockaccel.service': 1.5, 'sockaccel-metrics@.service': 0.5, 'sockaccel-textfile.service': 1.0}


def analyze(*arguments: object) -> 'subprocess.CompletedProcess[str]':
    if not shutil.which('systemd-analyze'):
        pytest.skip('systemd-analyze is not installed')
    return subprocess.run(
        ['systemd-analyze', *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )


def test_units_are_understood(tmp_path: Path) -> None:
    """With programs that are there: it looks for them."""
    units = [path for path in (ROOT / 'packaging').iterdir() if path.suffix in ('.service', '.socket', '.timer')]
    assert len(units) == 5
    for unit in units:
        text = re.sub(r'(?m)^ExecStart=\S+', 'ExecStart=/bin/true', unit.read_text())
        (tmp_path / unit.name).write_text(text)
    checked = analyze('verify', '--man=no', *(tmp_path / unit.name for unit in units if '@' not in unit.name))
    assert checked.returncode == 0, checked.stderr
    assert checked.stderr == ''


@pytest.mark.parametrize('unit', UNITS, ids=lambda unit: unit.name)
def test_units_are_confined(unit: Path) -> None:
    said = analyze('security', '--offline=yes', '--no-pager', unit).stdout
    found = re.search(r'Overall exposure level for \S+: ([0-9.]+)', said)
    assert found, said
    assert float(found[1]) <= EXPOSURE[unit.name]
