# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the catalogue one way after another.

From the command line it needs no daemon for the ways plain and unchecked:

    python3 -m tests.conformance.runner --way plain --way unchecked --output /tmp/results
"""

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.conformance import cgroup, results, unchecked
from tests.conformance.results import WAYS, Results


class WorkerFailed(RuntimeError):
    """The worker ended with an error; the text is what it wrote."""


@contextlib.contextmanager
def prepared(way: str, accelerated: Path | None = None) -> Iterator[Path]:
    """A cgroup in which connections go the given way; for sockaccel it must be supplied."""
    if way == 'sockaccel':
        if not accelerated:
            raise ValueError('the way sockaccel needs a cgroup that a running daemon covers')
        yield accelerated
        return
    with cgroup.scratch(way) as directory, contextlib.ExitStack() as stack:
        if way == 'unchecked':
            stack.enter_context(unchecked.attached(directory))
        yield directory


def run(directory: Path, arguments: Sequence[str] = ()) -> Results:
    """Run the worker in the cgroup with the given options. Raises WorkerFailed."""
    command = [sys.executable, '-m', 'tests.conformance.worker', '--cgroup', str(directory), *arguments]
    worker = subprocess.run(command, cwd=unchecked.REPOSITORY, capture_output=True, text=True)
    if worker.returncode:
        raise WorkerFailed(worker.stderr)
    return results.parse(worker.stdout.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--way', action='append', choices=WAYS, help='default: plain and unchecked')
    parser.add_argument('--accelerated', type=Path, help='for the way sockaccel: a cgroup covered by the daemon')
    parser.add_argument('--output', type=Path, required=True, help='directory for a file of results for each way')
    arguments, for_worker = parser.parse_known_args()
    for way in arguments.way or ['plain', 'unchecked']:
        with prepared(way, arguments.accelerated) as directory:
            measured = run(directory, for_worker)
        results.save(arguments.output, way, measured)
        print(f'{way}: {len(measured)} cases, {sum(not result.usable for result in measured.values())} unusable')


if __name__ == '__main__':
    main()
