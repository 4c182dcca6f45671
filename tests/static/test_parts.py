# SPDX-License-Identifier: GPL-2.0-or-later
"""What the installed tests take out of the programs still stands there once, which they see only after an hour."""

import pytest

from tests.installed.test_evidence import PARTS
from tests.support.harness import ROOT


@pytest.mark.parametrize('part', PARTS)
def test_the_text_stands_once(part: str) -> None:
    name, there, _instead = PARTS[part]
    assert (ROOT / 'bpf' / name).read_text().count(there) == 1
