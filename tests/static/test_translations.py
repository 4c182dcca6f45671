# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue has every text of the page that is marked, and so has each translation.

tests/static/test_cockpit.py has what finds texts without a mark.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

from tests.support.harness import ROOT

PAGE = ROOT / 'cockpit'
TRANSLATIONS = sorted((PAGE / 'po').glob('*.po'))


def test_catalogue_and_translations_are_fresh() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / 'tools/generate-translations', '--check'],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize('path', TRANSLATIONS, ids=lambda path: path.stem)
def test_a_translation_is_complete(path: Path) -> None:
    with path.open('rb') as file:
        messages = [message for message in read_po(file) if message.id]
    with (PAGE / 'po/sockaccel.pot').open('rb') as file:
        wanted = {message.id for message in read_po(file) if message.id}
    assert {message.id for message in messages} == wanted
    for message in messages:
        originals = [message.id] if isinstance(message.id, str) else list(message.id)
        texts = [message.string] if isinstance(message.string, str) else list(message.string)
        assert all(texts), message.id
        for text in texts:
            assert sorted(re.findall(r'\$\d', text)) == sorted(re.findall(r'\$\d', originals[-1])), message.id


def test_there_is_a_translation() -> None:
    assert 'de' in [path.stem for path in TRANSLATIONS]
