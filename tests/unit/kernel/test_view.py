# SPDX-License-Identifier: GPL-2.0-or-later
"""Every field that the verdict reads of the reader's socket has its place in the copy."""

import re

from hypothesis import given
from hypothesis import strategies as st

from sockaccel.kernel import offsets, sources, view

BLOCKS = 12


def copied(values: dict[str, int], memory: bytes) -> bytes:
    """What look_at() in bpf/lib/view.h makes of a socket's memory."""
    copy = bytearray(values['VIEW_SIZE'])
    for number in range(sum(name.startswith('VIEW_FROM_') for name in values)):
        start, size, to = (values[f'VIEW_{what}_{number}'] for what in ('FROM', 'BYTES', 'TO'))
        copy[to : to + size] = memory[start : start + size]
    return bytes(copy)


@given(st.fixed_dictionaries({name: st.integers(0, 2500) for name in view.VIEWED}))
def test_a_copy_has_every_field_wherever_it_lies(places: dict[str, int]) -> None:
    memory = bytes(number * 7 % 251 for number in range(2600))
    values = view.defines(places)
    copy = copied(values, memory)
    for name, size in view.VIEWED.items():
        at = values[f'VIEW_{name}']
        assert copy[at : at + size] == memory[places[name] : places[name] + size]
        assert at % 8 == places[name] % 8


def test_fields_that_a_kernel_lacks_are_left_out() -> None:
    values = view.defines({'sock_cookie': 88, 'sock_flags': 96, 'something_else': 104})
    assert values['VIEW_sock_flags'] == values['VIEW_sock_cookie'] + 8
    assert values['VIEW_SIZE'] == 16
    assert 'VIEW_something_else' not in values


def test_the_socket_of_this_kernel_is_copied_in_few_blocks() -> None:
    values = offsets.defines()
    assert values['VIEW_SIZE'] <= view.SIZE
    assert f'VIEW_TO_{BLOCKS}' not in values


def test_the_copy_has_what_is_read_of_it() -> None:
    text = ''.join((sources.directory() / name).read_text() for name in ('lib/options.h', 'verdict.c'))
    read = set(
        re.findall(r'\b(?:FIELD(?:_BITS)?\((?:\w+, )?(?:access|PEER_ACCESS), \w+|PEER\(\w+, peer), (\w+)\)', text)
    )
    # The macros themselves are defined in terms of one.
    assert read - {'field'} == set(view.VIEWED)
