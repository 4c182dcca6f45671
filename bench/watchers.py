# SPDX-License-Identifier: GPL-2.0-or-later
"""What watching recv() costs programs that sockaccel does not accelerate: python3 -m bench.watchers

The watcher of tcp_recvmsg() is attached while a candidate waits that reads in blocking mode. With and without one,
in rounds that begin with either by turns. What counts is CPU time, of the best slice of each time, and the
difference within a round. Needs a kernel that takes watchers.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from sockaccel.kernel.watched import WAIT_WATCHER
from tests.support import harness, traffic
from tests.support.harness import Cgroup, Daemon, FdStore, PrivateBus

SOURCE = Path(__file__).with_name('sleeper.c')


class Store(FdStore):
    """Tells whether the watcher is attached: then its link is kept."""

    def watches(self) -> bool:
        return any(name.endswith(f'-link_{WAIT_WATCHER}') for name in self.fds)


def build(directory: Path) -> Path:
    """Compile sleeper.c, for any machine of this architecture. Raises CalledProcessError."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / 'sleeper'
    command = ['gcc', '-O2', '-Wall', '-Wextra', '-Werror', '-static', '-o', str(program), str(SOURCE)]
    subprocess.run(command, check=True)
    return program


def measure(program: Path, cgroup: Cgroup, milliseconds: int) -> float:
    """ns of CPU time for a call of recv(), of a bystander."""
    command = [str(program), str(milliseconds)]
    return float(subprocess.run(command, check=True, capture_output=True, preexec_fn=cgroup.enter).stdout)


def compare(program: Path, rounds: int, milliseconds: int) -> None:
    figures: dict[bool, list[float]] = {False: [], True: []}
    with (
        PrivateBus(), Cgroup(f'sockaccel-bench-{os.getpid()}') as root, Store() as store,
        Daemon(root.path, 'JoinDelayMs=0\nEventsPerSecond=0\n', store=store) as daemon,
    ):  # fmt: skip
        daemon.ready()
        if 'splice' in harness.every_issue():
            sys.exit('this kernel takes no watchers')
        target, bystander = Cgroup('target', root), Cgroup('bystander', root)
        harness.enable(target.path)
        for number in range(rounds):
            for watched in (False, True) if number % 2 else (True, False):
                # A new connection wants a walk, which finds somebody to be watched, or nobody.
                with traffic.pair(target, blocking=watched):
                    harness.wait_until(
                        lambda watched=watched: store.watches() is watched,
                        f'recv() is {"watched" if watched else "not watched any more"}',
                    )
                    figures[watched].append(measure(program, bystander, milliseconds))
    report(figures[False], figures[True])


def report(without: list[float], watched: list[float]) -> None:
    """Print medians with their ranges, and of the differences within a round too."""
    differences = [more - less for less, more in zip(without, watched, strict=True)]
    for name, values in (('without', without), ('watched', watched), ('difference', differences)):
        low, *_between, high = statistics.quantiles(values, n=4)
        print(
            f'{name}: median {statistics.median(values):.0f} ns of CPU time for a call of recv(), half of '
            f'{len(values)} rounds from {low:.0f} to {high:.0f}'
        )
    print(f'{100 * statistics.median(differences) / statistics.median(without):+.1f} %')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--program', type=Path, help='sleeper.c, compiled; by default it is compiled')
    parser.add_argument('--rounds', type=int, default=40)
    parser.add_argument('--milliseconds', type=int, default=1000)
    options = parser.parse_args()
    program = options.program or build(harness.ROOT / 'build' / 'bench')
    compare(program.resolve(), options.rounds, options.milliseconds)


if __name__ == '__main__':
    main()
