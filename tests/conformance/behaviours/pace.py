# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast a sender may send, and what it is told of its packets' ways."""

import select
import socket
import time

from tests.conformance.bench import AT_ONCE, IN_USE, Bench
from tests.conformance.catalogue import NONBLOCKING, Observation, behaviour

SO_MAX_PACING_RATE, SO_TIMESTAMPING = 47, 37
# include/uapi/linux/net_tstamp.h
TX_SOFTWARE, SOFTWARE, TX_ACK, OPT_TSONLY = 1 << 1, 1 << 4, 1 << 9, 1 << 11
RATE = 4_000_000
TOTAL = 3_000_000


def paced(moment: str) -> None:
    """Enter how long a stream takes whose sender limits its rate at one moment."""

    @behaviour(
        f'SO_MAX_PACING_RATE: a stream keeps to it, {moment}', readers=NONBLOCKING, families=('ipv4',),
        control_fails=True, slow=True, stays_tcp=moment == AT_ONCE,
    )  # fmt: skip
    def stream(bench: Bench) -> Observation:
        pair = bench.pair_with(moment, client=[(socket.SOL_SOCKET, SO_MAX_PACING_RATE, RATE)])
        data, sent, got = bytes(65536), 0, 0
        began = time.monotonic()
        while got < TOTAL:
            writers = [pair.client] if sent < TOTAL else []
            readable, writable, _ = select.select([pair.server], writers, [])
            if writable:
                sent += pair.client.send(data)
            if readable:
                got += len(pair.server.recv(1 << 20))
        # A sender may begin with a burst.
        return {'it takes its time': time.monotonic() - began > TOTAL / RATE / 2}


paced(AT_ONCE)
paced(IN_USE)


def stamped(name: str, flag: int, moment: str) -> None:
    """Enter how many completions a sender gets that asked for the times of its packets at one moment."""

    @behaviour(
        f'SO_TIMESTAMPING: {name}, {moment}', readers=NONBLOCKING, control_fails=True, stays_tcp=moment == AT_ONCE
    )
    def completions(bench: Bench) -> Observation:
        flags = flag | SOFTWARE | OPT_TSONLY
        pair = bench.pair_with(moment, client=[(socket.SOL_SOCKET, SO_TIMESTAMPING, flags)])
        before = _completions(pair.client)
        for _message in range(3):
            bench.write_all(pair.client, b'data')
            bench.read_bytes(pair.server, 4)
        bench.arrives(pair.client)
        # On a slow machine TCP sends a packet again before it is acknowledged: that has a completion too.
        return {'completions': min(_completions(pair.client), 3), 'of the warm-up': before > 0}


def _completions(sender: socket.socket) -> int:
    count = 0
    while True:
        try:
            sender.recvmsg(1, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return count
        count += 1


stamped('a completion when a message leaves', TX_SOFTWARE, AT_ONCE)
stamped('a completion when a message leaves', TX_SOFTWARE, IN_USE)
stamped('a completion when a message is acknowledged', TX_ACK, IN_USE)
