# SPDX-License-Identifier: GPL-2.0-or-later
"""Where led connections wanted to go, packed."""

from sockaccel.core.origins import LED, restricted, unpack
from sockaccel.kernel import abi

V4 = bytes(10) + b'\xff\xff' + bytes([10, 0, 0, 9])
PART = LED.pack(1, 7, V4, 80) + LED.pack(2, 8, bytes(15) + b'\x01', 443)


def test_it_is_what_the_programs_print() -> None:
    assert LED.size == abi.LED.size
    assert abi.LED.unpack(LED.pack(1, 7, V4, 80)) == (1, 7, V4, 80, 0)


def test_by_cookie() -> None:
    assert unpack(PART) == {1: ('10.0.0.9', 80), 2: ('::1', 443)}
    assert unpack(PART, {2}) == {2: ('::1', 443)}


def test_of_one_network_namespace() -> None:
    assert unpack(restricted(PART, 7)) == {1: ('10.0.0.9', 80)}
    assert restricted(PART, 9) == b''
