# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the benchmarks, or some of them."""

import argparse
import json
import os
import sys
from pathlib import Path

from tests import harness
from tests.bench import samples, ways, workload

GROUPS = {
    'requests': workload.requests,
    'many': workload.many,
    'streams': workload.streams,
    'slow': workload.slow_reader,
    'connects': workload.connects,
    'bystanders': workload.bystanders,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog='bench', description=__doc__)
    parser.add_argument('group', nargs='*', choices=[[], *GROUPS], help='what to measure; all by default')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--milliseconds', type=int, default=300, help='how long one measurement takes')
    parser.add_argument('--match', default='', help='only cases whose name contains this')
    parser.add_argument('--json', type=Path, help='where the results go')
    options = parser.parse_args()
    if os.geteuid() != 0:
        print('the benchmarks need root: sudo make bench', file=sys.stderr)
        return 1
    workload.build()
    before = harness.Surroundings.now()
    results = []
    with ways.all_ways() as there:
        for name in options.group or GROUPS:
            cases = [case for case in GROUPS[name](options.milliseconds) if options.match in case.name]
            results += samples.measure(cases, there, options.rounds, lambda text: print(text, flush=True))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if left := before.left():
        print(f'left behind: {left}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
