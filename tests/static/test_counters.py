# SPDX-License-Identifier: GPL-2.0-or-later
"""Every counter is counted by a BPF program."""

import re

import pytest

from tests.support.harness import ROOT
from tests.support.memory_kernel import NAMES


def code(text: str) -> str:
    """C without comments and strings, and without what is only compared."""
    text = re.sub(r'/\*.*?\*/|//[^\n]*|"[^"\n]*"', ' ', text, flags=re.DOTALL)
    return re.sub(r'[!=]=\s*\w+', ' ', text)


def counted(text: str) -> set[str]:
    """The names that are handed to count() or note_seen(), index the counters, or are given as a reason."""
    given = re.findall(
        r'(?:count|turn_away|note_seen)\([^;]*;|value\[\w+\]|return\b[^;]*;|[^=!<>]=(?!=)[^;]*;', code(text)
    )
    return {word for part in given for word in re.findall(r'\b[A-Z][A-Z0-9_]*\b', part)}


def test_every_counter_is_counted_somewhere() -> None:
    sources = [path for path in (ROOT / 'bpf').rglob('*.[ch]') if path.name != 'counters.h']
    found = set().union(*(counted(path.read_text()) for path in sources))
    assert {name.upper() for name in NAMES} - found == set()


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('/* ORDER */ // ORDER\n', set()),
        ('if (reason != ORDER && reason == MEMORY)\n', set()),
        ('bpf_printk("ORDER");', set()),
        ('case ORDER:', set()),
        ('count(slot, ORDER, 1);', {'ORDER'}),
        ('return ORDER;', {'ORDER'}),
        ('reason = told == PAUSED ? ORDER : LONELY;', {'ORDER', 'LONELY'}),
        ('sync(&counters->value[ORDER], 1);', {'ORDER'}),
    ],
)
def test_only_what_counts_is_found(text: str, expected: set[str]) -> None:
    assert counted(text) == expected


def test_a_counter_that_nothing_counts_is_found() -> None:
    """The sources of this checkout without the one place that counts it."""
    sources = ''.join(path.read_text() for path in (ROOT / 'bpf').rglob('*.c'))
    assert 'LOW_WATER' in counted(sources)
    assert 'LOW_WATER' not in counted(sources.replace('return LOW_WATER;', 'return 0; /* LOW_WATER */'))
