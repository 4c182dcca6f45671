# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the benchmarks, or some of them."""

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bench import containers, daemon, results, samples, sidecar, tools, ways, workload
from bench.samples import Case
from sockaccel.ctl.client import NotRunning, Refused
from tests.support import harness

OWN: dict[str, Callable[[int], list[Case]]] = {
    'requests': workload.requests,
    'many': workload.many,
    'streams': workload.streams,
    'slow': workload.slow_reader,
    'connects': workload.connects,
    'bystanders': workload.bystanders,
}
CONTAINERS, SIDECAR, DAEMON = 'containers', 'sidecar', 'daemon'
# Of a program that was started, of what it printed, of the daemon.
FAILURES = (
    AssertionError,
    KeyError,
    OSError,
    ValueError,
    subprocess.SubprocessError,
    NotRunning,
    Refused,
    pytest.fail.Exception,
)


def say(text: str) -> None:
    print(text, flush=True)


def machine() -> dict[str, Any]:
    lines = [line.partition(':') for line in Path('/proc/cpuinfo').read_text().splitlines()]
    names = [value.strip() for key, _colon, value in lines if key.strip() == 'model name']
    return {
        'kernel': f'Linux {platform.release()}',
        'processor': names[0] if names else platform.machine(),
        'cpus': os.cpu_count(),
        'memory': os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30,
        'date': datetime.now(UTC).date().isoformat(),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for; the results are there after each group, what failed among them."""
    wanted = options.group or [*OWN, *tools.ALL_TOOLS, CONTAINERS, SIDECAR, DAEMON]
    found: dict[str, Any] = {
        'machine': machine(),
        'rounds': options.rounds,
        'missing': ways.missing(),
        'cases': [],
        'failed': {},
    }
    begun = time.monotonic()
    if any(name != DAEMON for name in wanted):
        with (
            ways.all_ways() as there,
            tools.opened(options.seconds) as opened,
            containers.opened(opened) as towns,
            sidecar.opened(there) if SIDECAR in wanted else contextlib.nullcontext({}) as sidecars,
        ):
            for name in wanted:
                cases = OWN[name](options.milliseconds) if name in OWN else []
                if name in tools.ALL_TOOLS:
                    cases = tools.ALL_TOOLS[name](opened)
                elif name == CONTAINERS:
                    cases = containers.cases(towns, options.milliseconds)
                elif name == SIDECAR:
                    cases = sidecar.cases(sidecars, options.milliseconds)
                for case in cases:
                    full = f'{case.group}, {case.name}'
                    if options.match not in full:
                        continue
                    with _noted(full, found['failed']):
                        measured = samples.measure(
                            case, sidecars if name == SIDECAR else there, options.rounds
                        )  # fmt: skip
                        say(samples.line(measured))
                        found['cases'].append(measured | {'tool': name in tools.ALL_TOOLS})
                save(options.json, found)
                say(f'{name}: done after {time.monotonic() - begun:.0f} s')
    if DAEMON in wanted:
        with _noted(DAEMON, found['failed']):
            found['daemon'] = {}
            daemon.measure(say, found['daemon'], options.connections)
        save(options.json, found)
        say(f'{DAEMON}: done after {time.monotonic() - begun:.0f} s')
    return found


@contextlib.contextmanager
def _noted(name: str, failed: dict[str, str]) -> Iterator[None]:
    """What fails in a quarter of an hour must not cost the rest of it."""
    try:
        yield
    except FAILURES as exc:
        failed[name] = f'{type(exc).__name__}: {exc}'
        say(f'{name}: FAILED: {failed[name]}')


def save(path: Path | None, found: dict[str, Any]) -> None:
    """Put the results into a file, in the place of earlier ones; what was not measured now stays."""
    if not path:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    before = results.read(path) if path.exists() else {}
    cases = {(case['group'], case['name']): case for case in [*before.get('cases', []), *found['cases']]}
    results.write(path, {**before, **found, 'cases': list(cases.values())})


def main() -> int:
    groups = [*OWN, *tools.ALL_TOOLS, CONTAINERS, SIDECAR, DAEMON]
    parser = argparse.ArgumentParser(prog='bench', description=__doc__)
    parser.add_argument('group', nargs='*', help=f'{", ".join(groups)}; all by default')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--milliseconds', type=int, default=300, help='how long one measurement takes')
    parser.add_argument('--seconds', type=int, default=2, help='how long one run of a standard tool takes')
    parser.add_argument('--connections', type=int, default=daemon.CONNECTIONS, help='how many are held at once')
    parser.add_argument('--match', default='', help='only cases whose name contains this')
    parser.add_argument('--json', type=Path, help='where the results go; those of other groups stay there')
    options = parser.parse_args()
    if unknown := set(options.group) - set(groups):
        parser.error(f'there is no group "{unknown.pop()}": choose from {", ".join(groups)}')
    if os.geteuid() != 0:
        print('the benchmarks need root: sudo make bench', file=sys.stderr)
        return 1
    workload.build()
    before = harness.Surroundings.now()
    failed = run(options)['failed']
    for name, text in failed.items():
        print(f'failed: {name}: {text}', file=sys.stderr)
    left = before.left()
    if left:
        print(f'left behind: {left}', file=sys.stderr)
    return 1 if failed or left else 0


if __name__ == '__main__':
    sys.exit(main())
