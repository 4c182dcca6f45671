# SPDX-License-Identifier: GPL-2.0-or-later
"""What watching recv() costs programs that sockaccel does not accelerate: python3 -m bench.watchers

The watcher of tcp_recvmsg() is attached while a candidate waits that reads in blocking mode. With and without one,
in turn. Needs a kernel that takes watchers.
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
    """Calls of recv() per second, of a bystander."""
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
        for _round in range(rounds):
            with traffic.pair(target, blocking=True):
                harness.wait_until(store.watches, 'recv() is watched')
                figures[True].append(measure(program, bystander, milliseconds))
            # Its end wants a walk, which finds nobody to be watched.
            with traffic.pair(target):
                harness.wait_until(lambda: not store.watches(), 'recv() is not watched any more')
                figures[False].append(measure(program, bystander, milliseconds))
    without, watched = (statistics.median(figures[way]) for way in (False, True))
    for name, way, median in (('without', False, without), ('with', True, watched)):
        print(f'{name}: median {median:.0f} calls of recv() per second, {sorted(map(round, figures[way]))}')
    print(f'ratio of medians: {watched / without:.3f}; {1e9 * (1 / watched - 1 / without):.0f} ns for each call')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--program', type=Path, help='sleeper.c, compiled; by default it is compiled')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--milliseconds', type=int, default=1000)
    options = parser.parse_args()
    program = options.program or build(harness.ROOT / 'build' / 'bench')
    compare(program.resolve(), options.rounds, options.milliseconds)


if __name__ == '__main__':
    main()
