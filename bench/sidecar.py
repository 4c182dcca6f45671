# SPDX-License-Identifier: GPL-2.0-or-later
"""The same work through a proxy: by nobody, by netfilter's REDIRECT, led by sockaccel, and accelerated besides.

The client and its Envoy are in one network namespace, the server in another.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import workload
from bench.samples import Case, Sample
from bench.tools import cpu_us
from bench.ways import BYSTANDER, DIRECT, FAST, LED, REDIRECT, SIDECAR, Way
from sockaccel.ctl.client import string
from tests.apps.place import NOBODY
from tests.support import harness, topology
from tests.support.envoy import Envoy
from tests.support.harness import Cgroup
from tests.support.led import OTHER, OUTBOUND, Entered, Place, entered

_RULES = f"""
table ip led {{
  chain output {{
    type nat hook output priority -100
    meta l4proto tcp meta skuid != nobody ip daddr {OTHER} redirect to :{OUTBOUND}
  }}
}}
"""


@dataclass(frozen=True)
class Sidecar:
    """One way. outer: the client's side. inner: the server's. all: the cgroup of both and of the proxy."""

    way: Way
    outer: Place
    inner: Entered
    all: Cgroup

    def run(self, arguments: Sequence[object], milliseconds: int) -> Sample:
        """server_us: of the proxy too. Raises AssertionError if the connections took another way."""
        led = _led(self.way)
        client, server = (os.open(place.network, os.O_RDONLY) for place in (self.outer, self.inner))
        try:
            with topology.inside(client):
                before = cpu_us(self.all)
                found = workload.run(
                    self.way, *arguments, '-N', server, '-B', OTHER, '-A', OTHER, milliseconds=milliseconds,
                    keeps=(server,),
                )  # fmt: skip
                spent = cpu_us(self.all) - before
        finally:
            os.close(client)
            os.close(server)
        assert (_led(self.way) > led) == (self.way.name in (LED, FAST))
        operations = found.rate * milliseconds / 1000 or 1
        own = found.client_us or 0.0
        return Sample(found.rate, own, max(0.0, spent / operations - own), found.share)


@contextlib.contextmanager
def opened(there: Mapping[str, Way]) -> Iterator[dict[str, Sidecar]]:
    """Every way, by name."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='sockaccel-bench-')))
        directory.chmod(0o755)
        made = {}
        for number, name in enumerate(SIDECAR):
            own = directory / str(number)
            own.mkdir()
            made[name] = _sidecar(stack, name, Cgroup(f'sidecar{number}', there[BYSTANDER].cgroup), own)
        yield made


def _sidecar(stack: contextlib.ExitStack, name: str, both: Cgroup, directory: Path) -> Sidecar:
    client, proxy = Cgroup('client', both), Cgroup('proxy', both)
    inner = stack.enter_context(entered(client, proxy))
    outer = Place(inner.host, client, proxy)
    if name != DIRECT:
        envoy = Envoy(outer, directory, 'outbound', OUTBOUND, user=NOBODY)
        stack.callback(envoy.stop)
    if name == REDIRECT:
        outer.command('nft', '-f', '-', text=_RULES)
    elif name != DIRECT:
        options = {'when_down': string('bypass')}
        harness.call('Intercept', 'ssa{sv}', client.path, proxy.path, options)
        stack.callback(harness.call, 'Release', 's', client.path)
    if name == FAST:
        harness.enable(both.path, *harness.every_issue(), OtherNamespaces='yes')
    return Sidecar(Way(name, client, redirects=name == FAST), outer, inner, both)


def cases(sidecars: Mapping[str, Sidecar], milliseconds: int) -> list[Case]:
    one, other = workload.cpus()
    pinned = ['-p', one, '-q', other]
    work = {
        'request/response 64 B': ['-r', '-n', '-S', 64, *pinned],
        'request/response 16 KB': ['-r', '-n', '-S', 16384, *pinned],
        'request/response 64 B, 16 at once': ['-r', '-n', '-S', 64, '-c', 16, *pinned],
        'connections': ['-x', '-n', '-S', 64, *pinned],
    }
    assert set(sidecars) == set(SIDECAR)
    return [
        Case('sidecar', name, 'per second', tuple(SIDECAR), partial(_run, words, milliseconds), {}, FAST)
        for name, words in work.items()
    ]


def _run(words: Sequence[object], milliseconds: int, sidecar: Sidecar) -> Sample:
    return sidecar.run(words, milliseconds)


def _led(way: Way) -> int:
    """How many connections of a way were led so far."""
    rows = harness.call('ListInterceptions')
    return sum(row['counters']['led'] for row in rows if row['target'] == way.cgroup.path)
