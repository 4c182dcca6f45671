# SPDX-License-Identifier: GPL-2.0-or-later
"""Offsets from the running kernel's type information."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sockaccel.kernel import offsets
from sockaccel.kernel.libbpf import KernelTypes
from sockaccel.kernel.offsets import Field, locate


def test_every_field_of_this_kernel() -> None:
    values = offsets.defines()
    assert {f'OFFSET_{name}' for name in offsets.FIELDS} <= values.keys()
    assert values['OFFSET_sock_num'] == 14, 'skc_num is part of the ABI of struct sock_common since 2012'
    assert values['MASK_sock_kern_sock'] == 1


def test_members_of_anonymous_structures_are_found() -> None:
    with KernelTypes() as types:
        assert locate(types, 'sock', '__sk_common.skc_rcv_saddr') == Field(4)
        assert locate(types, 'sock', '__sk_common.skc_daddr') == Field(0)


def test_what_a_kernel_lacks_is_named() -> None:
    with KernelTypes() as types:
        with pytest.raises(KeyError, match='sock.sk_nonsense'):
            locate(types, 'sock', 'sk_nonsense')
        with pytest.raises(KeyError, match='no_such_struct'):
            locate(types, 'no_such_struct', 'x')
        with pytest.raises(KeyError, match='NONSENSE'):
            offsets.enumerator(types, 'sock_flags', 'NONSENSE')


NAMES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ['sock', 'tcp_sock', '__sk_common', 'skc_net', 'net', 'sk_flags', 'sk_backlog', 'rmem_alloc', '']
    ),
)


@settings(deadline=None)
@given(NAMES, st.lists(NAMES, max_size=4))
def test_any_path_is_a_field_or_named_as_missing(structure: str, path: list[str]) -> None:
    """A new kernel may have turned any member into something else."""
    with KernelTypes() as types:
        try:
            field = locate(types, structure, '.'.join(path))
        except KeyError as exc:
            assert structure in str(exc.args[0])
        else:
            assert field.offset >= 0
            assert 0 < field.bits <= 64
