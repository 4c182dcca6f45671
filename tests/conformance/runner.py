# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the catalogue one way after another.

From the command line it needs no daemon for the ways plain and unchecked:

    python3 -m tests.conformance.runner --way plain --way unchecked --output /tmp/results
"""

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.conformance import cgroup, results, unchecked
from tests.conformance.results import WAYS, Results

# Seconds. Faults of the control are that nothing comes and that calls hang; looking slow is as good as that.
CONTROL_PATIENCE_S = '3'


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


def run(way: str, directory: Path, arguments: Sequence[str] = ()) -> Results:
    """Run the worker in the cgroup with the given options. Raises WorkerFailed."""
    command = [sys.executable, '-m', 'tests.conformance.worker', '--cgroup', str(directory), *arguments]
    if way == 'sockaccel':
        command.append('--joins')
    environment = {**os.environ, **({'SOCKACCEL_PATIENCE': CONTROL_PATIENCE_S} if way == 'unchecked' else {})}
    with subprocess.Popen(
        command, cwd=unchecked.REPOSITORY, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as worker:  # fmt: skip
        try:
            output, errors = worker.communicate()
        except BaseException:
            # It ends its cases, which are in process groups of their own, by their parent-death signal.
            worker.kill()
            raise
    if worker.returncode:
        raise WorkerFailed(errors)
    return results.parse(output.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--way', action='append', choices=WAYS, help='default: plain and unchecked')
    parser.add_argument('--accelerated', type=Path, help='for the way sockaccel: a cgroup covered by the daemon')
    parser.add_argument('--output', type=Path, required=True, help='directory for a file of results for each way')
    arguments, for_worker = parser.parse_known_args()
    for way in arguments.way or ['plain', 'unchecked']:
        with prepared(way, arguments.accelerated) as directory:
            measured = run(way, directory, for_worker)
        results.save(arguments.output, way, measured)
        print(f'{way}: {len(measured)} cases, {sum(not result.usable for result in measured.values())} unusable')


if __name__ == '__main__':
    main()
