# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon itself costs: its start, its memory, its CPU time under churn, many connections."""

import asyncio
import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench import workload
from bench.ways import PLAIN, SOCKACCEL, UNCHECKED, Way
from sockaccel.core.listing import Filter
from sockaccel.ctl import listing
from sockaccel.ctl.client import Client, string
from sockaccel.kernel import libbpf
from tests.conformance import unchecked
from tests.support import harness
from tests.support.harness import Cgroup, Daemon, FdStore, PrivateBus
from tests.support.patience import PATIENCE_S

STARTS = 5
RESTARTS, COMING_AND_GOING = 200, 10_000
IDLE_S = 60
# Connections per second of all generators together, and how many each of them keeps open: so few that they are
# closed before they join, so many that each joins.
CHURN, CHURN_MS = 20_000, 5000
SHORT, LONG = 1, 4000
CONNECTIONS = 100_000
# Each process has an address of its own, whose ports are the limit, and its open files, which root may raise.
PER_PROCESS = min(9000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 100)
# Its map has room for no more.
UNCHECKED_CONNECTIONS = 50_000
ASKED = 3
# For longer than a listing is kept for its next page.
KEPT_S = 31
# So that who asks meanwhile is not what keeps the daemon busy.
PAUSE_S = 0.05
# How much the kernel's memory may still change within a second.
SETTLED_BYTES, SETTLED_WITHIN_S = 256 * 1024, 20
Note = Callable[..., None]


def measure(say: Callable[[str], None], figures: dict[str, Any], connections: int = CONNECTIONS) -> None:
    """Put every figure under its name, which says its unit; those that are there stay when a later one fails."""

    def note(name: str, value: float, goal: float | None = None) -> None:
        figures[name] = {'value': value, 'goal': goal}
        say(f'daemon: {name}: {value:.4g}' + ('' if goal is None else f' (goal: at most {goal:g})'))

    name = f'sockaccel-bench-{os.getpid()}'
    settings = f'MaximumConnections={connections + 10000}\n'
    with PrivateBus(), Cgroup(f'{name}-plain') as outside, Cgroup(name) as root:
        _starts(root, settings, note)
        _restarted_targets(root, settings, note)
        with Daemon(root.path, settings) as daemon, Cgroup('target', root) as target:
            daemon.ready()
            harness.enable(target.path, *harness.every_issue())
            way, plain = Way(SOCKACCEL, target, redirects=True), Way(PLAIN, outside)
            note('resident memory, MiB', daemon.resident() / 1024, 35)
            note('context switches in a minute of idling', _idle_switches(daemon) * 60 / IDLE_S, 0)
            # Before the churn, which leaves the kernel with memory for connections that are gone.
            _many(daemon, plain, way, connections, note)
            for kind, kept in (('that are closed at once', SHORT), ('that join', LONG)):
                for traced in (False, True):
                    with _tracing() if traced else contextlib.nullcontext():
                        rate, share = _churn(daemon, way, kept)
                    tail = f'connections {kind}, {"with" if traced else "without"} a tracer'
                    note(f'churn of {tail}, per second (at most {CHURN:,})', rate)
                    note(f"churn of {tail}, daemon's share of a CPU, %", 100 * share)


def _starts(root: Cgroup, settings: str, note: Note) -> None:
    cold, adopted = [], []
    with FdStore() as store, tempfile.TemporaryDirectory() as state:
        for _start in range(STARTS):
            store.clear()
            with Daemon(root.path, settings, state=Path(state), store=store) as daemon:
                cold.append(daemon.ready().ready_after)
                # So it leaves behind what it has.
                daemon.stop(signal.SIGKILL)
        for _start in range(STARTS):
            with Daemon(root.path, settings, state=Path(state), store=store) as daemon:
                adopted.append(daemon.ready().ready_after)
                daemon.stop(signal.SIGKILL)
    note('READY cold, s', median(cold), 1.0)
    note('READY adopted, s', median(adopted), 0.2)


def _restarted_targets(root: Cgroup, settings: str, note: Note) -> None:
    """How soon a target's cgroup that is made anew is covered, and what many of them leave in the daemon."""
    service = root.directory / 'service'
    with FdStore() as store, Daemon(root.path, settings, store=store) as daemon:
        daemon.ready()
        service.mkdir()
        harness.enable(f'{root.path}/service', *harness.every_issue())
        service.rmdir()
        daemon.heard()
        cgroups = next(fd for name, fd in store.fds.items() if name.endswith('-sa_cgroups'))
        took = []
        for _restart in range(RESTARTS):
            took.append(1000 * _covered_after(cgroups, service))
            service.rmdir()
        note(f'covered after its cgroup is made anew, median of {RESTARTS}, ms', median(took))
        note(f'covered after its cgroup is made anew, worst of {RESTARTS}, ms', max(took))
        # Once for what it keeps for the next ones.
        for measured in (False, True):
            before = daemon.resident()
            for _cgroup in range(COMING_AND_GOING):
                service.mkdir()
                service.rmdir()
            # When it has seen one more come and go it has seen them all.
            service.mkdir()
            harness.wait_until(lambda: harness.targets()[0][1] == 'active', 'it is active')
            service.rmdir()
            harness.wait_until(lambda: harness.targets()[0][1] == 'waiting', 'it is waiting')
            if measured:
                note(f'resident memory that {COMING_AND_GOING:,} cgroups of a target leave, KiB',
                     daemon.resident() - before)  # fmt: skip


def _covered_after(cgroups: int, service: Path) -> float:
    """Seconds from before mkdir() until the kernel's map has the cgroup. cgroups: fd of sa_cgroups."""
    begun = time.monotonic()
    service.mkdir()
    key = service.stat().st_ino.to_bytes(8, sys.byteorder)
    while libbpf.map_lookup(cgroups, key, 4) is None:
        if time.monotonic() - begun > PATIENCE_S:
            raise TimeoutError('the cgroup is never covered')
    return time.monotonic() - begun


def _many(daemon: Daemon, plain: Way, way: Way, connections: int, note: Note) -> None:
    """What it is like with many connections, and what each costs beyond one by plain TCP."""
    with _held(plain, connections) as beyond_nothing:
        note(f'{connections:,} plain connections, kernel memory for each, bytes', beyond_nothing)
    with _held(way, connections) as accelerated:
        note(f'{connections:,} accelerated connections, kernel memory for each beyond plain, bytes',
             accelerated - beyond_nothing, 2048)  # fmt: skip
        asyncio.run(_page_of_nothing())
        resident = daemon.resident()
        asyncio.run(_ask(note))
        # What ListConnections keeps for half a minute is no part of it.
        time.sleep(KEPT_S)
        note("daemon's memory after pages, beyond before, MiB", (daemon.resident() - resident) / 1024, 5)
        _list_all(daemon, note)
        note('resident memory with them, MiB', daemon.resident() / 1024)
    count = min(connections, UNCHECKED_CONNECTIONS)
    with (
        Cgroup(f'sockaccel-bench-{os.getpid()}-unchecked') as bare,
        unchecked.attached(bare.directory),
        _held(Way(UNCHECKED, bare, redirects=True), count) as memory,
    ):
        note(
            f'{count:,} unchecked connections, kernel memory for each beyond plain, bytes', memory - beyond_nothing
        )


async def _page_of_nothing() -> None:
    """Let the daemon begin what it begins with the first page, such as threads."""
    async with Client() as client:
        await client.call('ListConnections', 'a{sv}tt', {'target': string('/none')}, 0, 0)


async def _ask(note: Note) -> None:
    """How soon a daemon with many connections answers, to one client and to another at the same time."""
    async with Client() as client, Client() as other:
        wanted = {'path': string('redirect')}
        _rows, redirected, _listing = await client.call('ListConnections', 'a{sv}tt', wanted, 0, 0)
        note('of them redirected', redirected)
        note('Stats with them, ms', 1e3 * median([await _timed(client.call('Stats')) for _call in range(ASKED)]))
        listed = [await _timed(client.call('ListConnections', 'a{sv}tt', {}, 0, 0)) for _call in range(ASKED)]
        note('ListConnections with them, the first page, ms', 1e3 * median(listed))
        meanwhile: list[float] = []
        await _beside(client.call('ListConnections', 'a{sv}tt', {}, 0, 0), other, meanwhile)
        note('Stats meanwhile, ms', 1e3 * median(meanwhile))
        note('Stats meanwhile, the slowest, ms', 1e3 * max(meanwhile))
        meanwhile.clear()
        await _beside(_read_all(client), other, meanwhile)
        note('Stats while all are read, ms', 1e3 * median(meanwhile))
        note('Stats while all are read, the slowest, ms', 1e3 * max(meanwhile))


async def _beside(work: Coroutine[Any, Any, Any], other: Client, meanwhile: list[float]) -> float:
    """Seconds that some work takes. meanwhile: gets how long another client waits for an answer."""
    begun = time.monotonic()
    task = asyncio.create_task(work)
    while not task.done():
        meanwhile.append(await _timed(other.call('Stats')))
        await asyncio.wait([task], timeout=PAUSE_S)
    await task
    return time.monotonic() - begun


async def _timed(call: Coroutine[Any, Any, Any]) -> float:
    begun = time.monotonic()
    await call
    return time.monotonic() - begun


async def _read_all(client: Client) -> None:
    async for _listing, _pairs in listing.parts(client, Filter()):
        pass


def _list_all(daemon: Daemon, note: Note) -> None:
    """What "connections --json --limit 0" takes, the start of sockaccelctl included, and costs the daemon."""
    memory, cpu = daemon.resident(), _cpu_s(daemon)
    took: list[tuple[float, float]] = []
    most = memory
    with _installed() as (program, environment):
        ours = _cpu_of_children_s()
        for _time in range(ASKED):
            begun = time.monotonic()
            with subprocess.Popen(
                [*program, 'connections', '--json', '--limit=0'],
                cwd=harness.ROOT, env=environment, stdout=subprocess.PIPE,
            ) as process:  # fmt: skip
                assert process.stdout
                # The bracket, then a row.
                process.stdout.readline()
                process.stdout.readline()
                first = time.monotonic() - begun
                while process.stdout.read(1 << 20):
                    most = max(most, daemon.resident())
            took.append((first, time.monotonic() - begun))
    note('the first row of all connections, s', median(first for first, _all in took), 0.3)
    note('all connections, s', median(all_ for _first, all_ in took), 3)
    note("sockaccelctl's CPU time for them, ms", 1e3 * (_cpu_of_children_s() - ours) / ASKED)
    note("daemon's CPU time for them, ms", 1e3 * (_cpu_s(daemon) - cpu) / ASKED)
    note("daemon's memory meanwhile, beyond before, MiB", (most - memory) / 1024)
    note("daemon's memory afterwards, beyond before, MiB", (daemon.resident() - memory) / 1024, 5)


@contextlib.contextmanager
def _installed() -> Iterator[tuple[list[str], dict[str, str]]]:
    """How to run sockaccelctl as a package has it, whose modules are compiled: a command, and its environment."""
    with tempfile.TemporaryDirectory() as cache:
        mine = {name: value for name, value in os.environ.items() if not name.startswith('PYTHON')}
        program, environment = [sys.executable, '-m', 'sockaccel.ctl.cli'], {**mine, 'PYTHONPYCACHEPREFIX': cache}
        subprocess.run([*program, 'targets'], cwd=harness.ROOT, env=environment, check=True, capture_output=True)
        yield program, environment


def _cpu_of_children_s() -> float:
    """CPU time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _idle_switches(daemon: Daemon) -> int:
    """How often any thread of it was switched in or out in IDLE_S seconds in which nothing happens."""
    tasks = f'/proc/{daemon.process.pid}/task'
    # What was asked for before, such as the walk after Enable, is done by then.
    time.sleep(2)
    before = _switches(tasks)
    time.sleep(IDLE_S)
    return _switches(tasks) - before


def _switches(tasks: str) -> int:
    """Voluntary and other context switches of all threads so far."""
    lines = (line for task in Path(tasks).iterdir() for line in (task / 'status').read_text().splitlines())
    return sum(int(line.split()[1]) for line in lines if 'ctxt_switches' in line)


def _churn(daemon: Daemon, way: Way, kept: int) -> tuple[float, float]:
    """New connections per second, and the daemon's share of a CPU meanwhile. kept: how many each generator has."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    before, begun = _cpu_s(daemon), time.monotonic()
    generators = [
        workload.start(way, '-x', '-n', '-S', 64, '-c', kept, '-R', CHURN // len(cpus), '-p', cpu, '-q', cpu,
                       milliseconds=CHURN_MS)
        for cpu in cpus
    ]  # fmt: skip
    found = [workload.finish(generator) for generator in generators]
    share = (_cpu_s(daemon) - before) / (time.monotonic() - begun)
    return sum(each['operations'] / each['seconds'] for each in found), share


def _cpu_s(daemon: Daemon) -> float:
    """CPU time of all its threads, by the clock of a process that is not ours (clock_getcpuclockid(3))."""
    return time.clock_gettime(~daemon.process.pid << 3 | 2)


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    command = [sys.executable, '-m', 'sockaccel.ctl.cli', 'trace']
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
    """What the kernel itself uses, without the caches that come and go with what else happens."""
    fields = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines())
    return 1024 * sum(int(fields[name].split()[0]) for name in ('SUnreclaim', 'Percpu', 'VmallocUsed'))


def _settled_kernel_bytes() -> int:
    """The same when it has stopped to change: much is freed a while after it was in use."""
    end, before = time.monotonic() + SETTLED_WITHIN_S, _kernel_bytes()
    while True:
        time.sleep(1)
        now = _kernel_bytes()
        if abs(now - before) < SETTLED_BYTES or time.monotonic() > end:
            return now
        before = now


@contextlib.contextmanager
def _held(way: Way, connections: int) -> Iterator[float]:
    """Connections that are there meanwhile; gives the kernel's memory for each of them in bytes."""
    before, left, held = _settled_kernel_bytes(), connections, []
    with contextlib.ExitStack() as stack:
        while left > 0:
            count = min(left, PER_PROCESS)
            warm = PATIENCE_S * 1000 if way.redirects else 0
            command = [str(workload.PROGRAM), '-h', '-S', '16', '-c', str(count), '-w', str(round(warm))]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=way.cgroup.enter
            )
            held.append(process)
            stack.callback(_release, process)
            left -= count
        for process in held:
            assert process.stdout
            ready = select.select([process.stdout], [], [], PATIENCE_S)[0]
            assert ready, f'the connections are not there within {PATIENCE_S} s'
            # Empty if it failed, which it has said on its stderr.
            assert process.stdout.readline(), 'the connections could not be made'
        yield (_settled_kernel_bytes() - before) / connections


def _release(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    process.wait(PATIENCE_S)
    process.stdout.close()
