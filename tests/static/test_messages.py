# SPDX-License-Identifier: GPL-2.0-or-later
"""MESSAGE_IDs and the journal's catalog agree."""

import re

from sockaccel.core import messages
from tests.support.harness import ROOT


def identifiers() -> dict[str, str]:
    return {name: value for name, value in vars(messages).items() if name.isupper()}


def test_every_message_id_has_an_entry_in_the_catalog() -> None:
    catalog = (ROOT / 'packaging/catalog/sockaccel.catalog').read_text()
    assert sorted(re.findall(r'^-- ([0-9a-f]{32})$', catalog, re.MULTILINE)) == sorted(identifiers().values())
    assert max(map(len, catalog.splitlines())) <= 76


def test_every_message_id_is_used() -> None:
    sources = ''.join(path.read_text() for path in (ROOT / 'sockaccel').rglob('*.py'))
    for name in identifiers():
        assert f'messages.{name}' in sources, name
