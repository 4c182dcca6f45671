# SPDX-License-Identifier: GPL-2.0-or-later
"""How soon the new cgroup of a restarted unit is covered: prints figures, is no test.

python3 -m tests.installed.latency [--restarts 200], as root, with the package installed and the daemon running.
"""

import argparse
import statistics
from pathlib import Path

from tests.installed import system
from tests.support.harness import wait_until

UNIT = 'sa-restarted.service'
CGROUP = Path('/sys/fs/cgroup/system.slice', UNIT)


def covered() -> list[float]:
    """When the daemon said that it covers the unit, in microseconds since 1970."""
    lines = system.journal(f'SOCKACCEL_TARGET={UNIT}')
    return [float(line['_SOURCE_REALTIME_TIMESTAMP']) for line in lines if line['MESSAGE'].startswith('Covers')]


def restart() -> float:
    """Milliseconds from the new cgroup to its coverage."""
    before = len(covered())
    system.run('systemctl', 'restart', UNIT)
    wait_until(lambda: len(covered()) > before, 'it is covered')
    # Of the directory, which is made once and not changed again; to a tick of the kernel's.
    return (covered()[-1] - CGROUP.stat().st_ctime_ns / 1000) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--restarts', type=int, default=200)
    restarts = parser.parse_args().restarts
    text = '[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/bin/sleep infinity\n'
    with system.service(UNIT, text) as unit:
        system.run('systemctl', 'start', unit)
        system.run('sockaccelctl', 'enable', *(f'--accept={name}' for name in system.issues()), unit)
        took = [restart() for _restart in range(restarts)]
        system.run('sockaccelctl', 'disable', unit)
    print(f'covered, of {restarts} restarts: median {statistics.median(took):.1f} ms, worst {max(took):.1f} ms')


if __name__ == '__main__':
    main()
