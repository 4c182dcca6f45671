# SPDX-License-Identifier: GPL-2.0-or-later
"""Values come as they are, and the next one is made meanwhile."""

import threading
from collections.abc import Iterator

import pytest

from sockaccel.core.ahead import ahead
from tests.support.patience import PATIENCE_S


def test_all_values_come_in_their_order() -> None:
    assert list(ahead(iter(range(1, 100)))) == list(range(1, 100))
    assert list(ahead(iter(()))) == []


def test_the_next_one_is_made_while_one_is_used() -> None:
    made = threading.Event()

    def values() -> Iterator[int]:
        yield 1
        made.set()
        yield 2

    found = ahead(values())
    assert next(found) == 1
    assert made.wait(PATIENCE_S)
    assert list(found) == [2]


def test_what_goes_wrong_is_told() -> None:
    def values() -> Iterator[int]:
        yield 1
        raise OSError('no walk')

    found = ahead(values())
    assert next(found) == 1
    with pytest.raises(OSError, match='no walk'):
        next(found)
    assert list(found) == []


def test_who_has_enough_leaves_no_thread() -> None:
    found = ahead(iter(range(1, 100)))
    assert next(found) == 1
    found.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith('ahead')]
