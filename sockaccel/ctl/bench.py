# SPDX-License-Identifier: GPL-2.0-or-later
"""`sockaccelctl bench`: what acceleration brings on this machine, for two processes of our own.

Each measurement runs in a process of its own, in one of two cgroups, of which one is a target meanwhile. What
that process runs is `main()`.
"""

import argparse
import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sockaccel.core import child
from sockaccel.core.cgroup import cgroup2_mount
from sockaccel.core.target import EVERYTHING
from sockaccel.ctl import show
from sockaccel.ctl.client import Client, boolean, strings
from sockaccel.errors import SockaccelError

ROUNDS = 5
SECONDS = 0.4
# How long a connection may take until it is redirected.
WARM_S = 3.0
PATIENCE_S = 10.0
# The first byte of a message: whether it wants an answer.
REQUEST, NOTICE = b'?', b'!'
PLAIN, UNIX, ACCELERATED = 'plain TCP', 'Unix socket', 'sockaccel'
# struct tcp_info in include/uapi/linux/tcp.h: tcpi_bytes_received, tcpi_bytes_sent.
_BYTES_RECEIVED, _BYTES_SENT, _TCP_INFO_SIZE = 128, 200, 232


class BenchFailed(SockaccelError):
    """A measurement could not be made."""


@dataclass(frozen=True)
class Work:
    """size: bytes of a message; stream: one way, no responses; same_cpu: both ends on one CPU."""

    name: str
    unit: str
    size: int
    stream: bool = False
    same_cpu: bool = False


WORKS = (
    Work('request/response 64 B, one CPU', 'per second', 64, same_cpu=True),
    Work('request/response 16 KB, one CPU', 'per second', 16384, same_cpu=True),
    Work('request/response 64 B', 'per second', 64),
    Work('stream of 64 KB', 'MB/s', 65536, stream=True),
)


async def bench(client: Client, options: argparse.Namespace) -> int:
    """The command. Raises BenchFailed, and what the daemon refuses."""
    for row in await client.call('ListTargets'):
        if row['name'] in (EVERYTHING, '/'):
            raise BenchFailed(
                f'all of this host is the target "{row["name"]}", so there is no plain TCP to compare with'
            )
    configuration = {row['key']: row['value'] for row in await client.call('ListConfiguration')}
    findings = await client.call('ListFindings')
    issues = [finding['name'] for finding in findings if finding['severity'] == 'issue']
    with _cgroups(configuration.get('CgroupRoot') or '/') as (plain, target, name):
        # Our own processes do nothing that an issue of the kernel concerns.
        chosen = {'AcceptKernelIssues': strings(issues), 'runtime': boolean(True)}
        await client.call('EnableWithOptions', 'sa{sv}', name, chosen)
        try:
            rows = [_measure(work, plain, target) for work in WORKS]
        finally:
            await client.call('DisableWithOptions', 'sa{sv}', name, {'runtime': boolean(True)})
    if options.json:
        show.print_json(rows)
        return 0
    print(f'Medians of {ROUNDS} rounds. Both ends are Python, which hides a part: compiled programs gain more.\n')
    print(f'{"":33}{PLAIN:>16}{UNIX:>16}{ACCELERATED:>16}{"gain":>9}{"redirected":>12}')
    for row in rows:
        rates = ''.join(f'{row[way]:>16,.0f}' for way in (PLAIN, UNIX, ACCELERATED))
        print(f'{row["work"]:33}{rates}{row[ACCELERATED] / row[PLAIN]:>7.2f} ×{100 * row["redirected"]:>10.0f} %')
    return 0


@contextlib.contextmanager
def _cgroups(root: str) -> Iterator[tuple[Path, Path, str]]:
    """Two new cgroups, and the name of the second as a target."""
    mount = cgroup2_mount()
    parent = mount / root.lstrip('/') / f'sockaccel-bench-{os.getpid()}'
    made = [parent, parent / 'plain', parent / 'target']
    try:
        for directory in made:
            directory.mkdir()
    except OSError as exc:
        _remove(made)
        raise BenchFailed(f'cannot make cgroup "{exc.filename}" ({exc.strerror}): run it as root') from exc
    try:
        yield made[1], made[2], f'/{made[2].relative_to(mount)}'
    finally:
        _remove(made)


def _remove(directories: list[Path]) -> None:
    for directory in reversed(directories):
        with contextlib.suppress(FileNotFoundError):
            directory.rmdir()


def _measure(work: Work, plain: Path, target: Path) -> dict[str, Any]:
    rates: dict[str, list[float]] = {PLAIN: [], UNIX: [], ACCELERATED: []}
    shares = []
    for _round in range(ROUNDS):
        for way, cgroup in ((PLAIN, plain), (UNIX, plain), (ACCELERATED, target)):
            rate, share = _run(work, way, cgroup)
            if way == ACCELERATED:
                shares.append(share)
            rates[way].append(rate)
    row: dict[str, Any] = {'work': work.name, 'unit': work.unit, 'redirected': median(shares)}
    return row | {way: median(values) for way, values in rates.items()}


def _run(work: Work, way: str, cgroup: Path) -> tuple[float, float]:
    """The rate, and the share of the bytes that did not go by TCP."""
    command = child.command('sockaccel.ctl.bench', str(cgroup), way, str(WORKS.index(work)))
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=child.DIRECTORY)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f'it ended with status {done.returncode} and said nothing']
        raise BenchFailed(f'{work.name} by {way} failed: {said[-1]}')
    rate, share = json.loads(done.stdout)
    return float(rate), float(share)


def main() -> int:
    """argv: the cgroup's directory, the way, the index of the work. Prints the rate and the redirected share."""
    directory, way, index = sys.argv[1:]
    (Path(directory) / 'cgroup.procs').write_text(str(os.getpid()))
    work = WORKS[int(index)]
    client, server = _connection(way)
    cpus = sorted(os.sched_getaffinity(0))
    other = os.fork()
    if other == 0:
        client.close()
        os.sched_setaffinity(0, {cpus[-1]})
        with contextlib.suppress(ConnectionError):
            _serve(server, work)
        os._exit(0)
    server.close()
    os.sched_setaffinity(0, {cpus[-1] if work.same_cpu else cpus[0]})
    try:
        print(json.dumps(_ask(client, work, way)))
    finally:
        client.close()
        os.waitpid(other, 0)
    return 0


def _connection(way: str) -> tuple[socket.socket, socket.socket]:
    if way == UNIX:
        ends = socket.socketpair()
    else:
        with socket.create_server(('127.0.0.1', 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            ends = client, listener.accept()[0]
        for end in ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for end in ends:
        end.setblocking(False)
    return ends


def _ask(client: socket.socket, work: Work, way: str) -> tuple[float, float]:
    request, notice = (first + bytes(work.size - 1) for first in (REQUEST, NOTICE))
    warm_until = time.monotonic() + WARM_S
    # The first exchanges go by TCP, until the daemon has let the connection join.
    while True:
        before = _by_tcp(client)
        _exchange(client, request)
        if way != ACCELERATED or _by_tcp(client) == before or time.monotonic() > warm_until:
            break
    before, begun, count = _by_tcp(client), time.monotonic(), 0
    while (elapsed := time.monotonic() - begun) < SECONDS:
        for _time in range(20):
            if work.stream:
                _send(client, notice)
            else:
                _exchange(client, request)
        count += 20
    carried = count * work.size * (1 if work.stream else 2)
    share = max(0.0, 1 - (_by_tcp(client) - before) / carried) if way != UNIX else 0.0
    return (carried / elapsed / 1e6 if work.stream else count / elapsed), share


def _serve(server: socket.socket, work: Work) -> None:
    """Answer each request, and read what wants no answer, until the client closes."""
    answer = bytes(work.size)
    while first := _receive(server, work.size):
        if first == REQUEST:
            _send(server, answer)


def _exchange(end: socket.socket, message: bytes) -> None:
    _send(end, message)
    _receive(end, len(message))


def _send(end: socket.socket, message: bytes) -> None:
    view = memoryview(message)
    while view:
        try:
            view = view[end.send(view) :]
        except BlockingIOError:
            _wait(end, select.POLLOUT)


def _receive(end: socket.socket, size: int) -> bytes:
    """Read a whole message; returns its first byte, or nothing at the end of the stream."""
    first = b''
    while size:
        _wait(end, select.POLLIN)
        with contextlib.suppress(BlockingIOError):
            got = end.recv(size)
            if not got:
                return b''
            first = first or got[:1]
            size -= len(got)
    return first


def _wait(end: socket.socket, events: int) -> None:
    poll = select.poll()
    poll.register(end, events)
    if not poll.poll(PATIENCE_S * 1000):
        raise TimeoutError(f'the other end did nothing for {PATIENCE_S:.0f} s')


def _by_tcp(end: socket.socket) -> int:
    """The bytes that TCP carried, both ways; 0 for a Unix socket."""
    if end.family == socket.AF_UNIX:
        return 0
    info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    received, sent = (struct.unpack_from('=Q', info, at)[0] for at in (_BYTES_RECEIVED, _BYTES_SENT))
    return int(received + sent)
