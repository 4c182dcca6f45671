# SPDX-License-Identifier: GPL-2.0-or-later
"""Multipath TCP."""

import socket

from tests.conformance import syscalls
from tests.conformance.behaviours.listener import exchange
from tests.conformance.bench import Bench, Unsupported, pattern, verdict
from tests.conformance.catalogue import BOTH, Observation, behaviour


def talk(bench: Bench, client_protocol: int) -> Observation:
    try:
        listener = bench.listen(protocol=syscalls.IPPROTO_MPTCP)
    except OSError as error:
        raise Unsupported(f'MPTCP: {error}') from error
    client = bench.client(protocol=client_protocol)
    client.connect(bench.address(listener))
    bench.set_mode(client)
    server = bench.accept(listener)
    right = [exchange(bench, client, server, number) for number in range(20)]
    sent = pattern(200_000)
    bench.write_all(client, sent)
    content = verdict(bench.read_bytes(server, len(sent)), sent)
    client.close()
    return {'exchanged': all(right), 'the server reads': content, 'and then': bench.read(server)}


@behaviour('MPTCP: a plain TCP client of an MPTCP listener', readers=BOTH)
def plain_client(bench: Bench) -> Observation:
    return talk(bench, socket.IPPROTO_TCP)


@behaviour('MPTCP: on both ends', readers=BOTH)
def both_ends(bench: Bench) -> Observation:
    return talk(bench, syscalls.IPPROTO_MPTCP)
