# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections are put together from both ends and several looks."""

import itertools

import pytest

from sockaccel.core import watch
from sockaccel.core.opensocket import OpenSocket
from sockaccel.core.watch import Direction, Traffic, Watch, traffic
from tests.support import opensockets as seen


def watched(*looks: list[OpenSocket]) -> Watch:
    made = Watch()
    for look in looks:
        made.add(look)
    return made


@pytest.mark.parametrize('order', list(itertools.permutations(range(3))))
def test_both_ends_are_one_connection_in_any_order(order: tuple[int, ...]) -> None:
    ends = [seen.client(), seen.server(), seen.listener()]
    made = watched([ends[index] for index in order], [ends[index] for index in reversed(order)])
    (found,) = made.connections
    assert (found.client, found.server) == (ends[0], ends[1])


def test_what_was_carried_before_does_not_count() -> None:
    before = [seen.client(to_server=1000, to_client=500), seen.server(to_server=1000, to_client=500)]
    after = [seen.client(to_server=1700, to_client=900), seen.server(to_server=1700, to_client=900)]
    (found,) = watched(before, after).connections
    assert found.during() == (Direction(700, 7), Direction(400, 4))


def test_one_that_was_made_later_counts_from_its_beginning() -> None:
    (found,) = watched([], [seen.client(to_server=700, to_client=400)]).connections
    assert found.during() == (Direction(700, 7), Direction(400, 4))


def test_one_end_knows_both_directions() -> None:
    (found,) = watched([seen.listener()], [seen.listener(), seen.server(to_server=700, to_client=400)]).connections
    assert found.client is None
    assert found.during() == (Direction(700, 7), Direction(400, 4))


def test_an_end_that_closed_first_keeps_what_it_had() -> None:
    made = watched([seen.client(), seen.server()], [seen.server(to_server=300)], [])
    (found,) = made.connections
    assert found.client
    assert found.server == seen.server(to_server=300)


def test_a_listener_that_went_away_changes_no_roles() -> None:
    """Here the client has the lower port, which is no server's when somebody listens on the other."""
    ends = [seen.client(port=50000), seen.server(port=50000)]
    (found,) = watched([seen.listener(50000), *ends], ends).connections
    assert found.client == ends[0]
    assert found.server == ends[1]


def test_numbers_begin_anew_after_the_last_one() -> None:
    ends = [
        seen.client(sent_number=2**32 - 1, received_number=0, port=50000),
        seen.server(sent_number=0, received_number=0, port=50000),
    ]
    (found,) = watched(ends).connections
    assert (found.client, found.server) == (ends[0], ends[1])


def test_addresses_do_not_matter() -> None:
    """Where they are translated on the way, or the ends are in different network namespaces."""
    ends = [seen.client(port=80, local=False), seen.server(port=8080, netns=7, local=False)]
    (found,) = watched([seen.listener(40000), *ends]).connections
    assert (found.client, found.server) == (ends[0], ends[1])
    assert found.local


@pytest.mark.parametrize(
    ('to_server', 'to_client', 'expected'),
    [
        (0, 0, Traffic.IDLE),
        (1, 1, Traffic.REQUESTS),
        (10, 80, Traffic.REQUESTS),
        (80, 10, Traffic.REQUESTS),
        (10, 81, Traffic.STREAM),
        (100, 0, Traffic.STREAM),
    ],
)
def test_traffic(to_server: int, to_client: int, expected: Traffic) -> None:
    assert traffic(Direction(1, to_server), Direction(1, to_client)) is expected


def test_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, 'MAXIMUM_CONNECTIONS', 3)
    first = [end for number in range(10) for end in (seen.client(number), seen.server(number))]
    made = watched(first, first)
    assert len(made.connections) == 3
    assert made.left_out == 7
