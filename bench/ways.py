# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways in which two local programs can talk, each in a cgroup of its own, all of them there at once."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from tests.conformance import unchecked
from tests.support import harness
from tests.support.harness import Cgroup, Daemon, PrivateBus

PLAIN, UNIX, UNCHECKED, SOCKACCEL, BYSTANDER = 'plain', 'unix', 'unchecked', 'sockaccel', 'bystander'
CONTAINERS = 'containers'
SENTENCES = {
    PLAIN: 'TCP over loopback, in a cgroup that sockaccel does not see',
    UNIX: 'a Unix stream socket',
    UNCHECKED: 'a sockmap redirect without any check, as the well-known examples have it',
    SOCKACCEL: 'TCP over loopback, in a target of sockaccel',
    BYSTANDER: 'TCP over loopback, outside every target, where sockaccel is attached',
    CONTAINERS: 'TCP between two network namespaces, in a target of sockaccel that allows it',
}
# Through a proxy (bench/sidecar.py).
DIRECT, REDIRECT, LED, FAST = 'direct', 'nft REDIRECT', 'intercepted', 'intercepted and accelerated'
SIDECAR = {
    DIRECT: 'without a proxy',
    REDIRECT: "through it by netfilter's REDIRECT",
    LED: 'through it by "sockaccelctl intercept"',
    FAST: 'the same, with client, proxy and server in a target of sockaccel',
}


@dataclass(frozen=True)
class Way:
    """One way to talk. redirects: whether its connections are expected to be redirected."""

    name: str
    cgroup: Cgroup
    redirects: bool = False


@contextlib.contextmanager
def all_ways(settings: str = '') -> Iterator[dict[str, Way]]:
    """Every way, by name, with a daemon that covers one of them. settings: of its configuration."""
    name = f'sockaccel-bench-{os.getpid()}'
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(Cgroup(f'{name}-plain'))
        bare = stack.enter_context(Cgroup(f'{name}-unchecked'))
        root = stack.enter_context(Cgroup(name))
        stack.enter_context(PrivateBus())
        daemon = stack.enter_context(Daemon(root.path, f'EventsPerSecond=0\n{settings}'))
        daemon.ready()
        # nginx is on the list for FIONREAD, which the benchmarks mend for it.
        daemon.list_programs('[Programs]\n')
        stack.enter_context(unchecked.attached(bare.directory))
        target, bystander, containers = (Cgroup(name, root) for name in (SOCKACCEL, BYSTANDER, CONTAINERS))
        harness.enable(target.path, *harness.every_issue())
        harness.enable(containers.path, *harness.every_issue(), OtherNamespaces='yes')
        yield {
            PLAIN: Way(PLAIN, plain),
            UNIX: Way(UNIX, plain),
            UNCHECKED: Way(UNCHECKED, bare, redirects=True),
            SOCKACCEL: Way(SOCKACCEL, target, redirects=True),
            BYSTANDER: Way(BYSTANDER, bystander),
            CONTAINERS: Way(CONTAINERS, containers, redirects=True),
        }


def missing() -> dict[str, str]:
    """Ways that this machine does not offer, and why."""
    if shutil.which('smc_run') and os.path.isdir('/sys/module/smc'):
        return {}
    return {'smc-d': 'no SMC-D loopback here: it needs smc_run (smc-tools) and a kernel with CONFIG_SMC_LO'}
