# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever reads why something is not accelerated also reads what to do."""

from sockaccel.core.advice import ADVICE
from sockaccel.kernel.abi import COUNTERS


def test_every_reason_has_advice_and_nothing_else_has() -> None:
    assert ADVICE.keys() == {counter.name for counter in COUNTERS if counter.kind != 'total'}


def test_advice_is_whole_sentences() -> None:
    for name, advice in ADVICE.items():
        assert advice[0].isupper(), name
        assert advice.endswith('.'), name
        assert '  ' not in advice, name
