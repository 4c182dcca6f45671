# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands in rows is made once for many of them, and only so much of it is remembered."""

from collections.abc import Sequence

from sockaccel.core import rows
from sockaccel.core.connection import pack_address
from sockaccel.core.rows import Wording


class Names:
    """Implements sockaccel.core.rows.Names; counts what it is asked."""

    reasons: Sequence[str] = ['none', 'order']
    asked = 0

    def target(self, slot: int) -> str:
        self.asked += 1
        return f'{slot}.service'

    def cgroup(self, number: int) -> str:
        return f'/{number}'

    def origin(self, cookie: int) -> tuple[str, int]:
        return f'10.0.0.{cookie}', 80


def test_a_name_is_asked_for_once() -> None:
    names = Names()
    wording = Wording(names)
    assert [wording.targets[slot] for slot in (1, 2, 1)] == ['1.service', '2.service', '1.service']
    assert names.asked == 2


def test_only_so_many_words_are_remembered() -> None:
    wording = Wording(Names())
    for number in range(2 * rows._REMEMBERED):
        assert wording.addresses[pack_address(f'10.1.{number // 256}.{number % 256}')].startswith('10.1.')
        assert len(wording.addresses) <= rows._REMEMBERED
