# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon itself costs: its start, its memory, its CPU time under churn, many connections."""

import contextlib
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from tests import harness
from tests.bench import workload
from tests.bench.ways import PLAIN, SOCKACCEL, Way
from tests.harness import Cgroup, Daemon, PrivateBus

STARTS = 5
IDLE_S = 5
CHURN_MS = 3000
# Of one process, which may not open more files than this.
PER_PROCESS = min(9000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 100)
CONNECTIONS = 100_000
ASKED = 5
_TICKS = os.sysconf('SC_CLK_TCK')


def measure(say: Callable[[str], None], connections: int = CONNECTIONS) -> dict[str, Any]:
    """Every figure by its name; times in seconds or milliseconds, memory in MiB or bytes, as the name says."""
    figures: dict[str, Any] = {}

    def note(name: str, value: float, goal: float | None = None) -> None:
        figures[name] = {'value': value, 'goal': goal}
        say(f'daemon: {name}: {value:.4g}' + ('' if goal is None else f' (goal: at most {goal:g})'))

    name = f'sockaccel-bench-{os.getpid()}'
    settings = f'EventsPerSecond=1000\nMaximumConnections={connections + 10000}\n'
    with PrivateBus(), Cgroup(f'{name}-plain') as outside, Cgroup(name) as root:
        starts = []
        for _start in range(STARTS):
            with Daemon(root.path, settings) as daemon:
                daemon.ready()
                starts.append(daemon.ready_after)
        note('READY cold, s', median(starts), 1.0)
        with Daemon(root.path, settings) as daemon, Cgroup('target', root) as target:
            daemon.ready()
            harness.enable(target.path, *harness.every_issue())
            way, plain = Way(SOCKACCEL, target, redirects=True), Way(PLAIN, outside)
            note('resident memory, MiB', daemon.resident() / 1024, 35)
            note('idle wake-ups per minute', _idle_wakeups(daemon) * 60 / IDLE_S, 0)
            for traced in (False, True):
                with _tracing() if traced else contextlib.nullcontext():
                    rate, share = _churn(daemon, way)
                tail = 'with a tracer' if traced else 'without a tracer'
                note(f'churn {tail}, connections/s', rate)
                note(f"churn {tail}, daemon's share of a CPU, %", 100 * share)
            for kind, where in (('plain', plain), ('accelerated', way)):
                with _held(where, connections) as (held, memory):
                    note(f'{held} connections {kind}, kernel memory per connection, bytes', memory / held)
                    if kind == 'accelerated':
                        note('joined ends', harness.call('ListEnds')[1])
                        note('Stats with them, ms', _asked('Stats'))
                        note('ListConnections with them, ms', _asked('ListConnections', 'a{sv}tt', {}, 0, 0))
                        note('resident memory with them, MiB', daemon.resident() / 1024)
            plain_bytes, accelerated_bytes = (
                next(figure['value'] for name, figure in figures.items() if f'{kind}, kernel memory' in name)
                for kind in ('connections plain', 'connections accelerated')
            )
            note('kernel memory beyond the sockets per connection, bytes', accelerated_bytes - plain_bytes, 2048)
    return figures


def _cpu_s(daemon: Daemon) -> float:
    fields = Path(f'/proc/{daemon.process.pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _idle_wakeups(daemon: Daemon) -> int:
    """How often the daemon slept anew in IDLE_S seconds in which nothing happens."""

    def slept() -> int:
        status = Path(f'/proc/{daemon.process.pid}/status').read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith('voluntary')))

    # What was asked for before, such as the walk after Enable, is done by then.
    time.sleep(2)
    before = slept()
    time.sleep(IDLE_S)
    return slept() - before


def _churn(daemon: Daemon, way: Way) -> tuple[float, float]:
    """Connections per second, and the daemon's share of a CPU meanwhile."""
    before, begun = _cpu_s(daemon), time.monotonic()
    sample = workload.run(way, '-x', '-n', '-S', 64, milliseconds=CHURN_MS)
    return sample.rate, (_cpu_s(daemon) - before) / (time.monotonic() - begun)


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    command = [sys.executable, '-m', 'sockaccel.cli', 'trace']
    tracer = subprocess.Popen(
        command, cwd=harness.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert tracer.stderr
    # It says when it is following.
    tracer.stderr.readline()
    try:
        yield
    finally:
        harness.stop(tracer)
        tracer.stderr.close()


def _kernel_bytes() -> int:
    """What the kernel itself uses, sockets and maps included."""
    fields = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines())
    names = ('Slab', 'Percpu', 'VmallocUsed', 'PageTables', 'KernelStack')
    return 1024 * sum(int(fields[name].split()[0]) for name in names)


@contextlib.contextmanager
def _held(way: Way, connections: int) -> Iterator[tuple[int, int]]:
    """Connections that are there meanwhile; gives their number, and the kernel's memory for them in bytes."""
    before, left, held = _kernel_bytes(), connections, []
    with contextlib.ExitStack() as stack:
        while left > 0:
            count = min(left, PER_PROCESS)
            warm = 60000 if way.redirects else 0
            command = [str(workload.PROGRAM), '-h', '-S', '16', '-c', str(count), '-w', str(warm)]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=way.cgroup.enter
            )
            held.append(process)
            stack.callback(_release, process)
            left -= count
        for process in held:
            assert process.stdout
            assert select.select([process.stdout], [], [], 120)[0], 'the connections are not there within 120 s'
            # Empty if it failed, which it has said on its stderr.
            assert process.stdout.readline(), 'the connections could not be made'
        yield connections, _kernel_bytes() - before


def _release(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    process.wait(harness.STOP_WITHIN_S)
    process.stdout.close()


def _asked(member: str, *arguments: Any) -> float:
    """The median time of a call, in milliseconds; the client's own start and the decoding included."""
    took = []
    for _call in range(ASKED):
        begun = time.monotonic()
        harness.call(member, *arguments)
        took.append(1e3 * (time.monotonic() - begun))
    return median(took)
