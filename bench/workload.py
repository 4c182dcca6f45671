# SPDX-License-Identifier: GPL-2.0-or-later
"""The cases of workload.c: requests and responses, streams, connections."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.samples import Case, Sample
from bench.ways import BYSTANDER, PLAIN, SOCKACCEL, UNCHECKED, UNIX, Way

SOURCE = Path(__file__).with_name('workload.c')
PROGRAM = SOURCE.parents[1] / 'build' / 'bench' / 'workload'
# How long a connection may take until it is redirected. Unit: milliseconds.
WARM_MS = 3000
PLAIN_WARM_MS = 20
# How long a stream of small messages may take until it has left the map.
SETTLE_MS = 1500
SIZES = {1: '1 B', 64: '64 B', 1024: '1 KB', 4096: '4 KB', 16384: '16 KB', 65536: '64 KB'}
STREAM_SIZES = {64: '64 B', 1024: '1 KB', 4096: '4 KB', 16384: '16 KB', 65536: '64 KB', 131072: '128 KB',
                1048576: '1 MB'}  # fmt: skip
ALL = (PLAIN, UNIX, UNCHECKED, SOCKACCEL)
ATTACHED = (PLAIN, UNCHECKED, SOCKACCEL)


def build() -> None:
    """Compile workload.c. Raises CalledProcessError."""
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    command = ['gcc', '-O2', '-Wall', '-Wextra', '-Werror', '-o', str(PROGRAM), str(SOURCE)]
    subprocess.run(command, check=True)


def start(
    way: Way, *arguments: object, milliseconds: int, warm: int = WARM_MS, keeps: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Begin one measurement; `finish()` has what was found. keeps: descriptors that its arguments name."""
    command = [str(PROGRAM), *map(str, arguments), '-t', str(milliseconds)]
    if way.name == UNIX:
        command.append('-u')
    command += ['-w', str(warm if way.redirects else PLAIN_WARM_MS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=way.cgroup.enter, pass_fds=keeps)


def finish(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What the workload printed. Raises CalledProcessError, with what it said on its own stderr."""
    printed, _nothing = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return dict(json.loads(printed))


def run(way: Way, *arguments: object, milliseconds: int, warm: int = WARM_MS, keeps: Sequence[int] = ()) -> Sample:
    """One measurement. Raises CalledProcessError."""
    found = finish(start(way, *arguments, milliseconds=milliseconds, warm=warm, keeps=keeps))
    operations = found['operations'] or 1
    share = None
    if way.name != UNIX and '-x' not in arguments:
        share = max(0.0, 1 - found['tcp_bytes'] / (found['bytes'] or 1))
    rate = found['operations'] / found['seconds']
    if '-s' in arguments:
        rate = found['bytes'] / found['seconds'] / 1e6
    return Sample(rate, 1e6 * found['client_cpu'] / operations, 1e6 * found['server_cpu'] / operations, share)


def cpus() -> tuple[int, int]:
    available = sorted(os.sched_getaffinity(0))
    return available[-1], available[0]


def _case(
    group: str, name: str, unit: str, ways: tuple[str, ...], arguments: Sequence[object], milliseconds: int,
    goals: dict[str, float] | None = None, subject: str = SOCKACCEL,
) -> Case:  # fmt: skip
    return Case(
        group, name, unit, ways, lambda way: run(way, *arguments, milliseconds=milliseconds), goals or {}, subject
    )


def requests(milliseconds: int) -> list[Case]:
    one, other = cpus()
    cases = []
    for place, server in (('same CPU', one), ('two CPUs', other)):
        for size, name in SIZES.items():
            goals = {PLAIN: 0.97, UNCHECKED: 0.98}
            if place == 'two CPUs':
                goals[PLAIN] = 1.15
            elif size <= 16384:
                goals |= {PLAIN: 1.65, UNIX: 1.1}
            arguments = ['-r', '-n', '-S', size, '-p', one, '-q', server]
            cases.append(
                _case(f'request/response, {place}', name, 'per second', ALL, arguments, milliseconds, goals)
            )
    return cases


def many(milliseconds: int) -> list[Case]:
    one, other = cpus()
    return [
        _case(f'{connections} connections at once', '64 B', 'per second', ALL,
              ['-r', '-n', '-S', 64, '-c', connections, '-p', one, '-q', other], milliseconds,
              {PLAIN: 0.97, UNCHECKED: 0.98})
        for connections in (32, 1000)
    ]  # fmt: skip


def streams(milliseconds: int) -> list[Case]:
    one, other = cpus()
    cases = []
    for option, flags, ways in (('TCP_NODELAY', ('-n',), ALL), ('Nagle', ('-b', SETTLE_MS), ATTACHED)):
        for size, name in STREAM_SIZES.items():
            goals = {PLAIN: 1.6 if size >= 65536 else 0.97, UNCHECKED: 0.98}
            arguments = ['-s', *flags, '-S', size, '-p', one, '-q', other]
            cases.append(_case(f'stream, {option}', name, 'MB/s', ways, arguments, milliseconds, goals))
    return cases


def slow_reader(milliseconds: int) -> list[Case]:
    one, other = cpus()
    arguments = ['-s', '-n', '-S', 65536, '-z', 100, '-p', one, '-q', other]
    # Unchecked has no goal: it is fast because it lets unread bytes grow without limit.
    return [_case('slow reader', '64 KB, 100 µs each', 'MB/s', ALL, arguments, milliseconds, {PLAIN: 0.97})]


def connects(milliseconds: int) -> list[Case]:
    one, _other = cpus()
    arguments = ['-x', '-n', '-S', 64, '-p', one, '-q', one]
    # Unchecked has no goal: it redirects to a socket that is not accepted yet, whose bytes may be lost.
    group, unit = 'connect-request-close', 'per second'
    return [
        _case(group, 'target', unit, ATTACHED, arguments, milliseconds, {PLAIN: 0.95}),
        _case(group, 'bystander', unit, (PLAIN, BYSTANDER), arguments, milliseconds, {PLAIN: 0.99}, BYSTANDER),
    ]


def bystanders(milliseconds: int) -> list[Case]:
    one, other = cpus()
    works = (('request/response 64 B', ['-r', '-n', '-S', 64, '-p', one, '-q', one], 'per second'),
             ('request/response 16 KB', ['-r', '-n', '-S', 16384, '-p', one, '-q', one], 'per second'),
             ('stream 64 KB', ['-s', '-n', '-S', 65536, '-p', one, '-q', other], 'MB/s'))  # fmt: skip
    return [
        _case('bystander', name, unit, (PLAIN, BYSTANDER), arguments, milliseconds, {PLAIN: 0.99}, BYSTANDER)
        for name, arguments, unit in works
    ]
