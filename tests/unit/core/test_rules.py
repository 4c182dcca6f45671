# SPDX-License-Identifier: GPL-2.0-or-later
"""Which connections the configuration wants: the parsers."""

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockaccel.core import rules
from sockaccel.core.rules import Rule

PARSERS: list[Callable[[str], tuple[Rule, ...]]] = [
    lambda text: rules.ports(text, exclude=False),
    lambda text: rules.addresses(text, exclude=True),
    lambda text: rules.users(text, exclude=False),
]


@given(st.sampled_from(PARSERS), st.text(st.sampled_from('0123456789-/.: afgz\u0663\0"'), max_size=40))
def test_any_text_is_a_list_of_rules_or_a_clear_error(parse: Callable[[str], tuple[Rule, ...]], text: str) -> None:
    try:
        found = parse(text)
    except ValueError as exc:
        assert str(exc).startswith('has "')
    else:
        assert len(found) == len(text.split())
        assert all(0 <= rule.first <= rule.last < 2**32 for rule in found)


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_ranges(one: int, other: int) -> None:
    first, last = sorted((one, other))
    (rule,) = rules.ports(f'{first}-{last}', exclude=False)
    assert (rule.first, rule.last) == (first, last)


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_a_range_of_addresses_fits_what_is_in_it(address: ipaddress.IPv4Address, length: int) -> None:
    network = ipaddress.ip_network((address, length), strict=False)
    (rule,) = rules.addresses(str(network), exclude=False)
    mapped = bytes(10) + b'\xff\xff' + address.packed
    assert fits(rule, mapped)
    # An IPv6 address that ends likewise is another one.
    assert not fits(rule, bytes(12) + address.packed)


def fits(rule: Rule, address: bytes) -> bool:
    return bytes(a & b for a, b in zip(address, rule.mask, strict=True)) == rule.address


@pytest.mark.parametrize(
    ('parse', 'text'),
    [
        (rules.ports, '0'), (rules.ports, '65536'), (rules.ports, '9-8'), (rules.ports, 'http'),
        (rules.ports, '1-'), (rules.ports, '99999999999999999999'), (rules.addresses, '127.0.0.1/8'),
        (rules.addresses, 'localhost'), (rules.users, 'no-such-user-here'), (rules.users, '-1'),
    ],
)  # fmt: skip
def test_nonsense_is_named(parse: Callable[..., tuple[Rule, ...]], text: str) -> None:
    with pytest.raises(ValueError, match=f'has "{text}"'):
        parse(text, exclude=False)
