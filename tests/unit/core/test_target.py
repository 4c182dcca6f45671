# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of targets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockaccel.core.target import Kind, Target, quote
from sockaccel.errors import InvalidTarget


@pytest.mark.parametrize(
    ('text', 'kind', 'name'),
    [
        ('*', Kind.EVERYTHING, '*'),
        ('postgresql@15-main.service', Kind.UNIT, 'postgresql@15-main.service'),
        ('user.slice', Kind.UNIT, 'user.slice'),
        ('/', Kind.PATH, '/'),
        ('/system.slice/x.service', Kind.PATH, '/system.slice/x.service'),
        ('//system.slice//x.service/', Kind.PATH, '/system.slice/x.service'),
    ],
)
def test_valid_names(text: str, kind: Kind, name: str) -> None:
    assert Target.parse(text) == Target(name, kind)


@pytest.mark.parametrize(
    'text',
    ['', 'nonsense', 'x.timer', '/a/../b', '/./a', 'a b.service', 'x\0.service', 'ü.service', '../x.service',
     'a' * 5000, '/' + 'a' * 5000, 'a' * 300 + '.service', '**'],
)  # fmt: skip
def test_nonsense_is_named_in_the_error(text: str) -> None:
    with pytest.raises(InvalidTarget) as raised:
        Target.parse(text)
    assert quote(text) in str(raised.value)
    assert len(str(raised.value)) < 400


@given(st.text(max_size=300))
def test_any_text_is_a_target_or_a_clear_error(text: str) -> None:
    try:
        target = Target.parse(text)
    except InvalidTarget as exc:
        assert str(exc).isprintable()
    else:
        assert Target.parse(target.name) == target
