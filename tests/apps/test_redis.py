# SPDX-License-Identifier: GPL-2.0-or-later
"""Redis: its benchmark, and the tests that come with its source, run against the installed programs."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps import debian
from tests.apps.place import ACCELERATED, NOBODY, Place, Results, free_port, opened
from tests.support import harness
from tests.support.harness import Cgroup, Daemon, PrivateBus
from tests.support.patience import LONG_S

BENCHMARKS = 'ping_mbulk,set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_300,mset'
PROGRAMS = ('redis-server', 'redis-cli', 'redis-benchmark', 'redis-check-aof', 'redis-check-rdb')
# Left out: what measures latency or memory, corrupts dumps at random, wants TLS, or takes minutes.
UNITS = (
    'unit/protocol unit/keyspace unit/scan unit/type/string unit/type/incr unit/type/list unit/type/list-2 '
    'unit/type/list-3 unit/type/set unit/type/zset unit/type/hash unit/type/stream unit/type/stream-cgroups '
    'unit/sort unit/expire unit/multi unit/quit unit/acl unit/acl-v2 unit/dump unit/auth unit/info '
    'unit/info-command unit/pubsub unit/pubsubshard unit/scripting unit/functions unit/introspection '
    'unit/introspection-2 unit/limits unit/bitops unit/bitfield unit/geo unit/hyperloglog unit/tracking '
    'unit/networking unit/querybuf unit/replybufsize unit/wait unit/slowlog unit/other unit/cluster '
    'integration/redis-benchmark integration/redis-cli integration/replication-2 integration/replication-3 '
    'integration/replication-4 integration/block-repl'
).split()
_COLOUR = re.compile(r'\x1b\[[0-9;]*m')
# Between the name of a test that failed and its file.
_PLACE = ' in tests/'
_VERDICT = re.compile(r'^\[(ok|err|exception|timeout)\]: (.*?)(?: \(\d+ ms\))?$', re.MULTILINE)


def serve(place: Place) -> int:
    port = free_port()
    directory = place.directory(NOBODY)
    options = ('--bind', '127.0.0.1', '--port', str(port), '--save', '', '--dir', directory)
    place.serve(port, 'redis-server', *options, user=NOBODY)
    return port


def test_benchmark(somewhere: Place) -> None:
    port = serve(somewhere)
    for name, requests, pipeline in (('-c50', 10000, 1), ('-P16', 50000, 16)):
        printed = somewhere.run(
            'redis-benchmark', '-h', '127.0.0.1', '-p', str(port), '-c', '50', '-n', str(requests),
            '-P', str(pipeline), '-t', BENCHMARKS, '--csv', '-d', '100',
        )  # fmt: skip
        assert 'Error' not in printed, printed
        rows = [line.replace('"', '').split(',') for line in printed.splitlines()[1:]]
        rates = {row[0]: float(row[1]) for row in rows}
        outcome = f'{len(rates)} done, GET {rates["GET"] / 1000:.0f}k/s'
        somewhere.same(f'redis-benchmark {name}', outcome, sorted(rates))


def run_suite(place: Place, sources: Path) -> tuple[Counter[str], Counter[str]]:
    """The names of the tests that passed and of those that failed.

    Some of them measure times, and fail where the machine has other work, plain too. What failed is tried again.
    """
    source = debian.source('redis-server', sources)
    here = place.directory()
    place.run('cp', '-r', source / 'tests', source / 'utils', source / 'runtest', here)
    (here / 'src').mkdir()
    for program in PROGRAMS:
        (here / 'src' / program).symlink_to(Path('/usr/bin', program))
    place.run('chown', '-R', NOBODY, here)
    passed, failed = run_units(place, here, UNITS)
    assert passed.total() > 20 * len(UNITS)
    if failed:
        print('failed once:', *failed, sep='\n')
        _passed, again = run_units(place, here, sorted({unit_of(name) for name in failed}))
        passed.update(name.rpartition(_PLACE)[0] for name in (failed - again).elements())
        failed &= again
        print('failed twice:', *failed, sep='\n')
    return passed, failed


def unit_of(name: str) -> str:
    """The unit of a test that failed: "NAME in tests/UNIT.tcl"."""
    return name.rpartition(_PLACE)[2].removesuffix('.tcl')


def run_units(place: Place, here: Path, units: list[str]) -> tuple[Counter[str], Counter[str]]:
    words = [word for unit in units for word in ('--single', unit)]
    printed = _COLOUR.sub('', place.run(
        './runtest', '--clients', '4', '--timeout', f'{LONG_S:.0f}', *words,
        statuses=(0, 1), user=NOBODY, cwd=here, environment={'HOME': str(here)},
    ))  # fmt: skip
    assert 'The End' in printed, printed[-4000:]
    verdicts: dict[str, Counter[str]] = {}
    for kind, name in _VERDICT.findall(printed):
        verdicts.setdefault(kind, Counter())[name] += 1
    passed = verdicts.pop('ok', Counter())
    return passed, sum(verdicts.values(), Counter())


def test_suite(somewhere: Place, sources: Path) -> None:
    """The runner's own clients block in recv(), and TCP keeps them; what is redirected is what the servers of a
    cluster or a replication, redis-benchmark and clients that do not block say."""
    passed, failed = run_suite(somewhere, sources)
    outcome = f'{passed.total()} passed, {failed.total()} failed'
    somewhere.same("Redis' own tests", outcome, (passed, failed))


@pytest.fixture
def with_blocking_readers(results: Results) -> Iterator[Place]:
    """A place of a daemon that accelerates programs that block, too."""
    with (
        Cgroup(f'sockaccel-own-{os.getpid()}') as root,
        PrivateBus(),
        Daemon(root.path, 'BlockingReaders=yes\nEventsPerSecond=0\n') as daemon,
        Cgroup('target', root) as target,
    ):
        daemon.ready()
        harness.enable(target.path, *harness.every_issue())
        with opened(ACCELERATED, target, results) as made:
            yield made
        assert 'Traceback' not in daemon.log.read_text()


def test_suite_with_blocking_readers(with_blocking_readers: Place, sources: Path) -> None:
    """With BlockingReaders=yes the runner's clients are accelerated; compared with the plain run of test_suite."""
    found = run_suite(with_blocking_readers, sources)
    outcome = f'{found[0].total()} passed, {found[1].total()} failed'
    with_blocking_readers.same("Redis' own tests", outcome, found, label=' (BlockingReaders=yes)')
