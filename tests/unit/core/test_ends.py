# SPDX-License-Identifier: GPL-2.0-or-later
"""Ends are read whatever else stands between their fields, and find each other."""

import struct

import pytest

from sockaccel.core.ends import End, Layout, Pair, Pairs, moved
from sockaccel.errors import InvalidArgument
from sockaccel.kernel.abi import EVENT
from sockaccel.kernel.ends import Ends
from tests.support.memory_kernel import SERVER_PORT, packed_ends

LAYOUT = Ends(lambda: iter(())).layout


def ends(count: int) -> list[End]:
    return list(LAYOUT.ends(packed_ends(count)))


def packed(*found: End) -> bytes:
    """As a walk writes them; what End does not know is 0."""
    codes = '=' + ''.join(code for _name, code in LAYOUT.fields)
    return b''.join(struct.pack(codes, *(getattr(end, name, 0) for name, _code in LAYOUT.fields)) for end in found)


def test_an_end_is_what_the_walk_has_written() -> None:
    assert LAYOUT.size == EVENT.size
    client, server = ends(1)
    assert (client.netns, client.local_port, client.remote_port, client.active) == (1, 10000, SERVER_PORT, 1)
    assert (server.local_port, server.remote_port, server.active) == (SERVER_PORT, 10000, 0)
    assert (client.local, client.program) == (bytes(10) + b'\xff\xff\x7f\0\0\1', b'psql' + bytes(12))


def test_fields_may_come_in_another_order_and_among_others() -> None:
    fields = [(name, code) for name, code in LAYOUT.fields if name in End._fields]
    other = Layout([('', '12s'), *reversed(fields), ('news', 'I')])
    (client, _server) = ends(1)
    data = struct.pack(
        '=12s' + ''.join(code for _name, code in reversed(fields)) + 'I',
        b'', *(getattr(client, name) for name, _code in reversed(fields)), 7,
    )  # fmt: skip
    assert list(other.ends(data)) == [client]
    assert other.pairs(data + bytes(other.size)) == [(client, None)]


def test_a_field_that_is_missing_is_named() -> None:
    with pytest.raises(InvalidArgument, match='without the field "cookie"'):
        Layout([(name, code) for name, code in LAYOUT.fields if name != 'cookie'])


def test_a_column() -> None:
    data = packed_ends(3)
    for name in ('netns', 'cgroup', 'slot', 'pid', 'cookie'):
        assert LAYOUT.column(data, name) == [getattr(end, name) for end in ends(3)], name
    assert LAYOUT.column(b'', 'slot') == []


def test_what_others_see_of_ends() -> None:
    data = packed_ends(50001)
    size = 2 * LAYOUT.size
    # The last connection is in a network namespace of its own.
    some = data[size : 2 * size] + data[-size:]
    for netns, kept in ((1, some[:size]), (2, some[size:])):
        seen, real = (list(LAYOUT.ends(part)) for part in (LAYOUT.restricted(some, netns), kept))
        assert [end._replace(sent=0, received=0) for end in seen] == [
            end._replace(sent=0, received=0, cgroup=0, pid=0, program=bytes(16)) for end in real
        ]
        # They meet all the same, and not by what is in their packets.
        assert list(Pairs(LAYOUT).add(packed(*seen))) == [(seen[0], seen[1])]
        numbers, theirs = (
            {number for end in ends for number in (end.sent, end.received)} for ends in (real, seen)
        )
        assert len(theirs) == 2
        assert not numbers & theirs
    assert LAYOUT.restricted(some, 3) == b''


def test_an_end_without_numbers_gets_none() -> None:
    """The first connection has 0 for one of both."""
    client, server = LAYOUT.ends(LAYOUT.restricted(packed_ends(1), 1))
    assert (client.sent, server.received) == (0, 0) or (client.received, server.sent) == (0, 0)
    assert list(Pairs(LAYOUT).add(packed(client, server))) == [(client, server)]


def test_ends_meet_in_whatever_order_they_come() -> None:
    found = ends(3)
    pairs = Pairs(LAYOUT)
    assert list(pairs.add(packed(found[0], found[3], found[4], found[0]))) == []
    assert list(pairs.add(packed(found[2], found[1], found[1]))) == [(found[2], found[3]), (found[0], found[1])]
    assert list(pairs.rest()) == [(found[4], None)]
    assert list(pairs.rest()) == []


def test_of_two_ends_that_claim_to_be_the_same_one_meets_the_other_end() -> None:
    client, server = ends(1)
    twin = client._replace(cookie=77)
    pairs = Pairs(LAYOUT)
    assert list(pairs.add(packed(client, twin, server))) == [(twin, None), (client, server)]
    assert list(pairs.rest()) == []


def test_ends_that_were_never_established_meet_nobody() -> None:
    found = [end._replace(sent=0, received=0) for end in ends(2)]
    pairs = Pairs(LAYOUT)
    assert sorted(pairs.add(packed(*found)), key=str) == sorted(map(alone, found), key=str)
    assert list(pairs.rest()) == []


def test_what_connections_have_sent() -> None:
    client, server = ends(1)
    client = client._replace(redirected_bytes=1 << 40, tcp_bytes=20)
    server = server._replace(redirected_bytes=3, tcp_bytes=4)
    data = packed(client, server) + bytes(LAYOUT.size) + packed(server)
    assert list(LAYOUT.moved(data)) == [moved(pair) for pair in LAYOUT.pairs(data)] == [(1 << 40) + 27, 7]


def test_an_end_without_a_peer_that_comes_again_is_one() -> None:
    found = [end._replace(sent=0, received=0) for end in ends(1)]
    pairs = Pairs(LAYOUT)
    assert len(list(pairs.add(packed(*found, *found)))) == 2
    assert list(pairs.add(packed(*found))) == []


def test_ends_that_come_again_after_they_have_met_are_left_out() -> None:
    found = ends(2)
    pairs = Pairs(LAYOUT)
    assert pairs.add(packed(found[0], found[1])) == [(found[0], found[1])]
    assert pairs.add(packed(found[1], found[2], found[0])) == []
    assert pairs.rest() == [(found[2], None)]


def test_ends_that_have_met_leave_their_room_to_others() -> None:
    pairs = Pairs(LAYOUT)
    assert len(list(pairs.add(packed_ends(1000)))) == 1000
    assert len(pairs._rows._rows) == LAYOUT.size


def test_two_ends_of_which_neither_sends_what_the_other_receives_do_not_meet() -> None:
    client, server = ends(2)[2:]
    pairs = Pairs(LAYOUT)
    assert list(pairs.add(packed(client, server._replace(sent=client.sent, received=client.received)))) == []
    assert len(list(pairs.rest())) == 2


def alone(end: End) -> Pair:
    return (end, None) if end.active else (None, end)
