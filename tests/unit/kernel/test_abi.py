# SPDX-License-Identifier: GPL-2.0-or-later
"""What is shared with the BPF programs. tests/live compares the sizes with those of the kernel's maps."""

import re
from enum import IntEnum

import pytest

from sockaccel.core import connection, protocols, rules
from sockaccel.kernel import abi, lead_programs, loader, sources

SOURCE = sources.directory()


@pytest.mark.parametrize(
    ('core', 'kernel', 'kernel_only'),
    [
        (connection.EventKind, abi.EventKind, set()),
        (connection.ConnectionState, abi.EndState, set()),
        (protocols.Urgency, abi.Urgency, set()),
        (rules.RuleKind, abi.RuleKind, {'END'}),
    ],
)
def test_the_enums_of_the_core_have_the_kernel_sides_values(
    core: type[IntEnum], kernel: type[IntEnum], kernel_only: set[str]
) -> None:
    values = {member.name: member.value for member in kernel if member.name not in kernel_only}
    assert {member.name: member.value for member in core} == values


def test_every_counter_has_a_name_a_kind_and_a_sentence() -> None:
    text = (SOURCE / 'abi' / 'counters.h').read_text()
    assert len(abi.COUNTERS) == len(re.findall(r'^\tX\(', text, re.MULTILINE))
    assert len({counter.name for counter in abi.COUNTERS}) == len(abi.COUNTERS)
    for counter in abi.COUNTERS:
        assert counter.kind in ('total', 'connection', 'message')
        assert counter.sentence
        assert not counter.sentence.endswith('.')


def test_the_first_counter_is_no_reason() -> None:
    """0 in the place of a reason means that there is none."""
    assert abi.COUNTERS[0].kind == 'total'


def test_every_map_is_declared_in_one_place() -> None:
    declared = r'(?:BPF_\w+\(|struct \w+ )(?:"\w+", )?(?:struct \w+, |u\w\w, )*(sa_\w+)'
    everywhere = set(re.findall(rf'^(?:__attribute.*\)\)\) )?{declared}', _all_sources(), re.MULTILINE))
    assert everywhere == {*loader.MAPS, *lead_programs.MAPS}
    for names, text in (
        (loader.MAPS, sources.layout_text(SOURCE)),
        (lead_programs.MAPS, sources.layout_text(SOURCE, lead_programs.LAYOUT)),
    ):
        assert set(names) == set(re.findall(r'\bsa_\w+', text))


def _all_sources() -> str:
    return '\n'.join(path.read_text() for path in SOURCE.rglob('*.c'))
