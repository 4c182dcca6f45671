# SPDX-License-Identifier: GPL-2.0-or-later
"""How soon a new cgroup of a target is covered, how soon an adopting daemon is ready: prints figures, is no test.

.venv/bin/python -m tests.support.latency [--restarts 200]
"""

import argparse
import os
import signal
import statistics
import struct
import tempfile
import time
from pathlib import Path

from sockaccel.kernel import libbpf
from tests.support import harness
from tests.support.harness import Cgroup, Daemon, FdStore, PrivateBus

_U64 = struct.Struct('=Q')


def covered_after(cgroups: int, service: Path) -> float:
    """Seconds from before mkdir() until the kernel's map has the cgroup. cgroups: fd of sa_cgroups."""
    begun = time.monotonic()
    service.mkdir()
    key = _U64.pack(service.stat().st_ino)
    while libbpf.map_lookup(cgroups, key, 4) is None:
        if time.monotonic() - begun > 10:
            raise TimeoutError('the cgroup was not covered within 10 s')
    return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--restarts', type=int, default=200)
    restarts = parser.parse_args().restarts
    with (
        PrivateBus(),
        FdStore() as store,
        tempfile.TemporaryDirectory() as state,
        Cgroup(f'sockaccel-latency-{os.getpid()}') as root,
    ):
        with Daemon(root.path, state=Path(state), store=store) as daemon:
            daemon.ready()
            print(f'ready, all compiled: {1000 * daemon.ready_after:.0f} ms')
            service = root.directory / 'service'
            service.mkdir()
            harness.enable(f'{root.path}/service', *harness.every_issue())
            service.rmdir()
            daemon.heard()
            cgroups = next(fd for name, fd in store.fds.items() if name.endswith('-sa_cgroups'))
            took = []
            for _restart in range(restarts):
                took.append(1000 * covered_after(cgroups, service))
                service.rmdir()
            print(f'covered, of {restarts}: median {statistics.median(took):.1f} ms, worst {max(took):.1f} ms')
            daemon.stop(signal.SIGKILL)
        ready = []
        for _start in range(5):
            with Daemon(root.path, state=Path(state), store=store) as daemon:
                ready.append(1000 * daemon.ready().ready_after)
                daemon.stop(signal.SIGKILL)
        print(f'ready, all adopted, of 5: median {statistics.median(ready):.0f} ms, worst {max(ready):.0f} ms')
        with Daemon(root.path, state=Path(state), store=store) as daemon:
            daemon.ready()
            process = f'/proc/{daemon.process.pid}/task'
            time.sleep(2)
            before = switches(process)
            time.sleep(60)
            print(f'context switches of the idle daemon in 60 s: {switches(process) - before}')


def switches(tasks: str) -> int:
    """Voluntary and other context switches of all threads so far."""
    lines = (line for task in Path(tasks).iterdir() for line in (task / 'status').read_text().splitlines())
    return sum(int(line.split()[1]) for line in lines if 'ctxt_switches' in line)


if __name__ == '__main__':
    main()
