# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of somebody else beside sockaccel's: theirs see what they saw, and what they own stays theirs."""

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import harness, traffic
from tests.support.churn import Churn
from tests.support.foreign import CLOSED, ESTABLISHED, ROUND_TRIP, Foreign
from tests.support.harness import Cgroup, Daemon, FdStore, PrivateBus
from tests.support.traffic import Pair, accelerate, exchange

SETTINGS = 'JoinDelayMs=0\n'
SO_COOKIE = 57


@pytest.fixture
def root() -> Iterator[Cgroup]:
    with PrivateBus(), Cgroup(f'sockaccel-foreign-{os.getpid()}') as cgroup:
        yield cgroup


def enable(cgroup: Cgroup) -> None:
    harness.enable(cgroup.path, *harness.every_issue())


def stats() -> dict[str, int]:
    return dict(harness.call('Stats'))


def wait_until_accelerated() -> None:
    before = stats()
    for name in ('connections', 'redirected_messages'):
        harness.wait_until(lambda name=name: stats()[name] > before[name], 'new connections are accelerated')


@pytest.mark.parametrize('comes', ['first', 'second'])
def test_a_program_beside_ours_misses_nothing(root: Cgroup, tmp_path: Path, comes: str) -> None:
    """It counts, it has callbacks switched on for its sockets, and it has them do ECN by its answer to the kernel.

    Programs run in the order in which they came.
    """
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(FdStore())

        def start() -> Daemon:
            return stack.enter_context(Daemon(root.path, SETTINGS, state=tmp_path, store=store)).ready()

        daemon = None
        if comes == 'second':
            daemon = start()
            enable(root)
        foreign = stack.enter_context(Foreign(root, 'watch'))
        churn = stack.enter_context(Churn(root))
        churn.go_on()
        if not daemon:
            daemon = start()
            churn.go_on()
            enable(root)
        wait_until_accelerated()
        churn.go_on()
        harness.call('Disable', 's', root.path)
        churn.go_on()
        # From here on ours is the second in any case.
        enable(root)
        wait_until_accelerated()
        daemon.stop(signal.SIGKILL)
        churn.go_on()
        daemon = start()
        wait_until_accelerated()
        churn.go_on()
        assert daemon.stop() == 0
        churn.go_on()
        made = churn.end()
        assert made['with_ecn'] == 2 * made['made']
        # The last ends are closed for good when the other end's FIN was acknowledged.
        harness.wait_until(
            lambda: foreign.seen() == {ESTABLISHED | ROUND_TRIP | CLOSED: 2 * made['made']},
            f'it has seen {made}, and not {foreign.seen()}',
        )
        assert foreign.attached


def cookie(end: socket.socket) -> int:
    return int(struct.unpack('=Q', end.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0])


def listed(made: Pair) -> dict[str, Any]:
    rows, _total, _listing = harness.call('ListConnections', 'a{sv}tt', {}, 0, 0)
    return next((dict(row) for row in rows if row['client_port'] == made.client.getsockname()[1]), {})


@pytest.mark.parametrize('verdict', [True, False], ids=['with a verdict', 'without a verdict'])
@pytest.mark.parametrize('owns', ['own_connecting', 'own_accepting', 'own_both'])
def test_an_end_in_another_sockmap_is_left_alone(
    root: Cgroup,
    tmp_path: Path,
    owns: str,
    verdict: bool,  # noqa: FBT001
) -> None:
    """A sockmap with a verdict keeps others' out by itself; one without, for lookups, is ours to respect."""
    with (
        FdStore() as store,
        Cgroup('owned', root) as cgroup,
        Foreign(cgroup, owns, verdict=verdict) as foreign,
        Daemon(root.path, SETTINGS, state=tmp_path, store=store) as daemon,
    ):
        daemon.ready()
        enable(root)
        with traffic.pair(cgroup, joins=False) as made:
            ends = [made.client] * (owns != 'own_accepting') + [made.server] * (owns != 'own_connecting')
            owned = {cookie(end) for end in ends}

            def check() -> None:
                before = foreign.messages()
                exchange(made)
                assert foreign.messages() - before == (3 * len(ends) if verdict else 0)
                assert foreign.owned() == owned

            def check_listed(times: int) -> None:
                """times: how often it was found out, once for each time that the target was enabled."""
                harness.wait_until(
                    lambda: listed(made).get('client_reason')
                    == listed(made).get('server_reason')
                    == 'foreign_sockmap',
                    "both ends are listed as somebody else's",
                )
                assert listed(made)['path'] == 'tcp'
                assert not traffic.is_member(made.client)
                assert not traffic.is_member(made.server)
                assert stats()['connection_reason_foreign_sockmap'] == times

            # Somebody who can be accelerated shows that sockaccel is at work.
            with traffic.pair(root) as other:
                exchange(other)
                check_listed(1)
                check()
                redirected = stats()['redirected_messages']
                assert redirected > 0
                check()
                assert stats()['redirected_messages'] == redirected
            harness.call('Disable', 's', root.path)
            check()
            enable(root)
            with traffic.pair(root):
                check_listed(2)
                check()
            daemon.stop(signal.SIGKILL)
            check()
            with Daemon(root.path, SETTINGS, state=tmp_path, store=store) as second:
                second.ready()
                with traffic.pair(root) as other:
                    accelerate(other)
                    check_listed(2)
                    check()
                assert second.stop() == 0
                check()
