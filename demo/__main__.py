# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job on real traffic: iperf3 and a request/response pair, plain and accelerated, then nothing left.

Needs root, and neither systemd nor a system bus: it brings a bus and a cgroup of its own.
"""

import argparse
import json
import os
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median

from tests.support import harness
from tests.support.harness import Cgroup, Daemon, PrivateBus
from tests.support.tracing import Trace

PORT = 10000
MESSAGE = '64k'
# More where in none of them most bytes were redirected.
ROUNDS, MOST_ROUNDS = 3, 9
# If no round has more than this the demo has failed: then it shows plain TCP under another name.
MOST = 0.5
REQUEST = b'x' * 64


@dataclass
class Run:
    """gigabits: per second, as iperf3's receiver counted; share: of iperf3's bytes that were redirected;

    trips: per second; stats: what was counted meanwhile.
    """

    gigabits: float
    share: float
    trips: float
    stats: dict[str, int]


def measure(cgroup: Cgroup, seconds: int) -> Run:
    before = harness.call('Stats')
    gigabits, carried = iperf(cgroup, seconds)
    redirected = harness.call('Stats')['redirected_bytes'] - before['redirected_bytes']
    trips = round_trips(cgroup, seconds)
    after = harness.call('Stats')
    stats = {name: after[name] - before[name] for name in before}
    return Run(gigabits, redirected / carried, trips, stats)


def iperf(cgroup: Cgroup, seconds: int) -> tuple[float, int]:
    """Gbit/s and bytes of `iperf3 -s -p 10000` with `iperf3 -c 127.0.0.1 -l 64k -p 10000`, both in the cgroup."""
    server = subprocess.Popen(
        ['iperf3', '-s', '-1', '-p', str(PORT), '--forceflush'],
        stdout=subprocess.PIPE, text=True, preexec_fn=cgroup.enter,
    )  # fmt: skip
    assert server.stdout
    # It listens once it says so.
    while 'Server listening' not in (line := server.stdout.readline()):
        if not line:
            raise SystemExit('iperf3 could not listen')
    client = subprocess.run(
        ['iperf3', '-c', '127.0.0.1', '-t', str(seconds), '-l', MESSAGE, '-p', str(PORT), '--json'],
        capture_output=True, text=True, check=False, preexec_fn=cgroup.enter,
    )  # fmt: skip
    answer = json.loads(client.stdout)
    if 'error' in answer:
        server.kill()
    server.stdout.read()
    server.wait()
    server.stdout.close()
    if 'error' in answer:
        raise SystemExit(f'iperf3: {answer["error"]}')
    received = answer['end']['sum_received']
    return received['bits_per_second'] / 1e9, answer['end']['sum_sent']['bytes']


def round_trips(cgroup: Cgroup, seconds: int) -> float:
    """Round trips per second of 64 bytes between two processes on one CPU, which is how a chatty pair runs."""
    cpu = min(os.sched_getaffinity(0))
    with cgroup.inside(), socket.create_server(('127.0.0.1', 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _address = listener.accept()
    for end in (client, server):
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    child = os.fork()
    if child == 0:
        client.close()
        os.sched_setaffinity(0, {cpu})
        answer(server)
        os._exit(0)
    server.close()
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        return ask(client, seconds)
    finally:
        os.sched_setaffinity(0, affinity)
        client.close()
        os.waitpid(child, 0)


def answer(end: socket.socket) -> None:
    poll = select.poll()
    poll.register(end, select.POLLIN)
    while True:
        poll.poll()
        data = end.recv(len(REQUEST))
        if not data:
            return
        end.send(data)


def ask(end: socket.socket, seconds: int) -> float:
    poll = select.poll()
    poll.register(end, select.POLLIN)
    begun, trips = time.monotonic(), 0
    while (elapsed := time.monotonic() - begun) < seconds:
        for _trip in range(100):
            end.send(REQUEST)
            poll.poll()
            if end.recv(len(REQUEST)) != REQUEST:
                raise SystemExit('the answer is not the request')
        trips += 100
    return trips / elapsed


def step(text: str) -> None:
    print(f'\n== {text}', flush=True)


def show(plain: list[Run], accelerated: list[Run]) -> None:
    """Print what this machine gave, as medians, and why not every message was redirected."""
    first, second = (
        [median(getattr(run, figure) for run in runs) for figure in ('gigabits', 'trips', 'share')]
        for runs in (plain, accelerated)
    )
    rows = (
        ('iperf3 -l 64k, Gbit/s', f'{first[0]:.1f}', f'{second[0]:.1f}', f'{second[0] / first[0]:.2f} x'),
        ('64 B request/response, round trips/s', f'{first[1]:.0f}', f'{second[1]:.0f}',
         f'{second[1] / first[1]:.2f} x'),
        ("iperf3's bytes that were redirected", _percent(first[2]), _percent(second[2]), ''),
    )  # fmt: skip
    print(f'{"":38} {"plain TCP":>12} {"sockaccel":>12} {"ratio":>8}')
    for name, *values, ratio in rows:
        print(f'{name:38} {values[0]:>12} {values[1]:>12} {ratio:>8}')
    print('\nMessages that went by TCP although accelerated, by reason:')
    for counter in harness.call('DescribeCounters'):
        count = sum(run.stats.get(f'message_reason_{counter["name"]}', 0) for run in accelerated)
        if counter['kind'] == 'message' and count:
            print(f'{count:12}  {counter["sentence"]}')
    shares = sorted(run.share for run in accelerated)
    if shares[0] <= MOST:
        print(
            f'\nFrom round to round between {_percent(shares[0])} and {_percent(shares[-1])} of the bytes were '
            'redirected. A reader that other\nprograms keep from its CPU falls behind, and what waits for it goes '
            'by TCP: this machine is busy.'
        )


def _percent(share: float) -> str:
    return f'{100 * share:.1f} %'


def enable(cgroup: Cgroup) -> list[str]:
    """Enable the cgroup as a user would; returns the options that it took."""
    refused = harness.control('enable', cgroup.path)
    accept = [f'--accept={name}' for name in harness.every_issue()]
    if accept:
        print(refused.stderr.strip())
        print(f'\nNeither program here does, so the demo accepts it: {" ".join(accept)}')
        harness.control('enable', *accept, cgroup.path).check_returncode()
    return accept


def settings() -> str:
    """Since 3.16 iperf3 does blocking reads, in a thread for each stream; those are left to TCP by default."""
    said = subprocess.run(['iperf3', '--version'], capture_output=True, text=True, check=True).stdout
    version = said.split()[1]
    if tuple(int(part) for part in version.split('.')[:2]) < (3, 16):
        return ''
    print(
        f'iperf3 {version} does blocking reads and takes no signals meanwhile: the demo sets BlockingReaders=yes'
    )
    return 'BlockingReaders=yes\n'


def best(accelerated: list[Run]) -> float:
    """The largest share of iperf3's bytes that were redirected in one round."""
    return max(run.share for run in accelerated)


def run(seconds: int) -> float:
    """Returns the largest share of iperf3's bytes that were redirected in one round."""
    with (
        Cgroup(f'sockaccel-demo-{os.getpid()}') as cgroup,
        PrivateBus(),
        Daemon(cgroup.path, settings()) as daemon,
    ):
        step('The daemon starts, on a bus of its own, for one cgroup')
        daemon.ready()
        print(f'ready after {daemon.ready_after:.2f} s, {daemon.resident() / 1024:.1f} MiB resident')

        step('Plain TCP: nothing is enabled, nothing is attached')
        plain = [measure(cgroup, seconds)]
        print(f'iperf3 {plain[0].gigabits:.1f} Gbit/s')

        step(f'sockaccelctl enable {cgroup.path}')
        accept = enable(cgroup)

        step('The same traffic, accelerated')
        with Trace() as trace:
            accelerated = [measure(cgroup, seconds)]
            print(f'iperf3 {accelerated[0].gigabits:.1f} Gbit/s')
            step('sockaccelctl trace: time, what, which end, connection, program')
            trace.wait_until(
                lambda lines: sum('closed' in line for line in lines) >= 4, 'four ends that are closed'
            )
            trace.interrupt()
        print('\n'.join(trace.lines))

        step(f'{ROUNDS - 1} more rounds of both')
        while len(plain) < ROUNDS or (best(accelerated) <= MOST and len(plain) < MOST_ROUNDS):
            harness.control('disable', cgroup.path).check_returncode()
            plain.append(measure(cgroup, seconds))
            harness.control('enable', *accept, cgroup.path).check_returncode()
            accelerated.append(measure(cgroup, seconds))
            print(f'iperf3 {plain[-1].gigabits:.1f} and {accelerated[-1].gigabits:.1f} Gbit/s')
        step(f'Side by side, medians of {len(plain)} rounds')
        show(plain, accelerated)

        step(f'sockaccelctl disable {cgroup.path}, then SIGTERM')
        harness.control('disable', cgroup.path).check_returncode()
        status = daemon.stop()
        print(daemon.log.read_text().splitlines()[-1])
        if status:
            raise SystemExit(f'the daemon ended with status {status}')
    return best(accelerated)


def main() -> int:
    parser = argparse.ArgumentParser(prog='demo', description=__doc__)
    parser.add_argument('--seconds', type=int, default=2, help='how long each measurement takes')
    options = parser.parse_args()
    if os.geteuid() != 0:
        print('the demo needs root: sudo make demo', file=sys.stderr)
        return 1
    before = harness.Surroundings.now()
    redirected = run(options.seconds)
    step('What is left')
    if left := before.left():
        print(f'FAILED: {left}', file=sys.stderr)
        return 1
    print('no program, map, link, pin, cgroup or process')
    if redirected <= MOST:
        print(
            f'\nFAILED: in no round more than {_percent(redirected)} of the bytes were redirected', file=sys.stderr
        )
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
