# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs behaviours in one cgroup and prints a JSON line for each case.

Each case runs in a process of its own, which is killed with all that it started when its time is over.
"""

import argparse
import contextlib
import faulthandler
import json
import os
import platform
import re
import select
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from tests.conformance import cgroup, syscalls
from tests.conformance.bench import Bench, Unsupported
from tests.conformance.catalogue import Behaviour, Case, Observation, catalogue
from tests.conformance.networks import LOOPBACK, NETWORKS, Network
from tests.support.patience import PATIENCE_S


class Run:
    """A case under way, in a process group of its own."""

    def __init__(self, case: Case, behaviour: Behaviour, network: Network, *, joins: bool) -> None:
        self.case = case
        self.started = time.monotonic()
        # Whatever it waits for in vain, it says so before it is taken for one that hangs.
        limit = max(behaviour.limit, 2 * PATIENCE_S)
        self.deadline = self.started + limit
        self._output, output = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            bench = Bench(case.family, case.reader, network, joins=joins, stays_tcp=behaviour.stays_tcp)
            _run_case(behaviour, bench, limit, output)
        os.close(output)
        self.exited = os.pidfd_open(self.pid)
        self._text = b''

    def fileno(self) -> int:
        return self._output

    def drain(self) -> bool:
        """Take what the process wrote; False at the end of it."""
        try:
            piece = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return True
        self._text += piece
        return bool(piece)

    def finish(self, *, hung: bool) -> dict[str, Any]:
        """End the whole process group and give the line to print."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        while True:
            try:
                os.waitpid(-self.pid, 0)
            except ChildProcessError:
                break
        while self.drain():
            if not select.select([self._output], [], [], 0)[0]:
                break
        os.close(self._output)
        os.close(self.exited)
        return {
            'behaviour': self.case.behaviour,
            'family': self.case.family,
            'reader': self.case.reader,
            'kernel': platform.release(),
            'seconds': round(time.monotonic() - self.started, 3),
            'observation': self._observation(hung=hung),
        }

    def _observation(self, *, hung: bool) -> Observation:
        for line in self._text.decode(errors='replace').splitlines():
            if line.startswith('{') and not hung:
                observation: Observation = json.loads(line)
                return observation
        places = re.findall(r'(\w+\.py)", line (\d+) in (\w+)', self._text.decode(errors='replace'))
        where = [f'{file}:{line} {function}' for file, line, function in places if file != 'worker.py']
        return {'hang' if hung else 'died': True, 'figures': {'where': where[:6]}}


def _run_case(behaviour: Behaviour, bench: Bench, limit: float, output: int) -> None:
    """Observe in this process, write the observation and exit."""
    os.setpgid(0, 0)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    # Where a behaviour hangs is worth knowing: its stack goes to the pipe just before it is killed.
    faulthandler.dump_traceback_later(max(limit - 0.3, 0.1), file=output)
    try:
        observation = behaviour.observe(bench)
    except Unsupported as reason:
        observation = {'unsupported': str(reason)}
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the application saw
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        name = syscalls.errno_name(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        observation = {'error': f'{type(error).__name__}: {name}'}
        bench.figures['line'] = place.tb_lineno if place else 0
    if bench.figures:
        observation['figures'] = {**observation.get('figures', {}), **bench.figures}
    faulthandler.cancel_dump_traceback_later()
    os.set_blocking(output, True)
    os.write(output, json.dumps(observation).encode() + b'\n')
    os._exit(0)


def run(cases: list[Case], network: Network, jobs: int, *, joins: bool) -> None:
    """Run the cases, several at a time, except those that want the machine for themselves."""
    register = catalogue()
    together = deque(case for case in cases if not register[case.behaviour].alone)
    alone = deque(case for case in cases if register[case.behaviour].alone)
    for queue, width in ((together, jobs), (alone, 1)):
        running: dict[int, Run] = {}
        poller = select.poll()
        while queue or running:
            while queue and len(running) < width:
                case = queue.popleft()
                started = Run(case, register[case.behaviour], network, joins=joins)
                running[started.exited] = started
                poller.register(started.exited, select.POLLIN)
            patience = max(0.0, min(case.deadline for case in running.values()) - time.monotonic())
            ended = {fd for fd, _ in poller.poll(patience * 1000)}
            for fd, case_run in list(running.items()):
                hung = fd not in ended and time.monotonic() >= case_run.deadline
                if hung or fd in ended:
                    poller.unregister(fd)
                    del running[fd]
                    print(json.dumps(case_run.finish(hung=hung)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--cgroup', type=Path, required=True, help='directory of the cgroup to run in')
    parser.add_argument('--network', choices=NETWORKS, default=LOOPBACK, help='what lies between the two ends')
    parser.add_argument('--module', action='append', help='run the behaviours of this module (default: all)')
    parser.add_argument('--behaviour', action='append', help='run the behaviours whose name contains this')
    parser.add_argument('--family', action='append', help='ipv4, ipv6 or mapped (default: all)')
    parser.add_argument('--reader', action='append', help='blocking or nonblocking (default: both)')
    parser.add_argument('--jobs', type=int, default=8, help='cases at a time')
    parser.add_argument('--joins', action='store_true', help='connections of non-blocking readers are accelerated')
    parser.add_argument('--quick', action='store_true', help='leave out what takes long on a slow machine')
    parser.add_argument('--list', action='store_true', help='print the cases and run none')
    arguments = parser.parse_args()

    # Before any socket exists: a socket belongs to the cgroup in which it was made.
    cgroup.join(arguments.cgroup)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    cases = [
        case
        for behaviour in catalogue().values()
        if not arguments.module or behaviour.module in arguments.module
        if not arguments.behaviour or any(part in behaviour.name for part in arguments.behaviour)
        if not (arguments.quick and behaviour.slow)
        for case in behaviour.cases()
        if not arguments.family or case.family in arguments.family
        if not arguments.reader or case.reader in arguments.reader
    ]
    if arguments.list:
        for case in cases:
            print(case)
    else:
        run(cases, NETWORKS[arguments.network](), arguments.jobs, joins=arguments.joins)


if __name__ == '__main__':
    main()
