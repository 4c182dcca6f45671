# SPDX-License-Identifier: GPL-2.0-or-later
"""What the ends of each connection have sent is added up, wherever the walk shows them."""

from sockaccel.core.tally import Tally, of_connections
from sockaccel.kernel.abi import EVENT, EventRecord
from sockaccel.kernel.ends import Ends
from tests.support.memory_kernel import packed_ends

LAYOUT = Ends(lambda: iter(())).layout


def test_the_busiest_are_known_by_their_numbers() -> None:
    """The later connections of `packed_ends` have sent more."""
    data = packed_ends(10)
    tally = Tally(LAYOUT)
    for at in reversed(range(0, len(data), EVENT.size)):
        tally.add(data[at : at + EVENT.size])
    assert tally.connections == 10
    assert of_connections(data, LAYOUT, tally.busiest(3)) == data[7 * 2 * EVENT.size :]
    assert of_connections(data, LAYOUT, tally.busiest(100)) == data


def test_of_connections_both_ends_count() -> None:
    """Of two connections the first has sent more, though no end of it has sent most."""
    data = packed_ends(4)
    two, three = data[4 * EVENT.size : 6 * EVENT.size], data[6 * EVENT.size :]
    tally = Tally(LAYOUT)
    tally.add(two + three[: EVENT.size])
    assert tally.busiest(1) == set(LAYOUT.numbers(two))


def test_ends_without_a_number_are_connections_of_their_own() -> None:
    first, second, third, fourth = (EventRecord._make(each) for each in EVENT.iter_unpack(packed_ends(2)))
    ends = [first._replace(key=bytes(8)), second._replace(key=bytes(8)), third._replace(key=bytes(8)), fourth]
    assert len(set(LAYOUT.numbers(b''.join(EVENT.pack(*end) for end in ends)))) == 4


def test_bytes_by_tcp_count_as_well() -> None:
    first, *others = (EventRecord._make(each) for each in EVENT.iter_unpack(packed_ends(3)))
    data = b''.join(EVENT.pack(*end) for end in (first._replace(tcp_bytes=1000), *others))
    tally = Tally(LAYOUT)
    tally.add(data)
    assert of_connections(data, LAYOUT, tally.busiest(1)) == data[: 2 * EVENT.size]
