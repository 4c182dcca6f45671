# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of a loader that did not load."""

import asyncio
import signal
import subprocess
import sys

import pytest

from sockaccel.core import capabilities, child
from sockaccel.errors import LoaderEnded, SockaccelError
from sockaccel.kernel import loader, programs
from tests.support.harness import ROOT


def ended(monkeypatch: pytest.MonkeyPatch, script: str) -> SockaccelError:
    """What is raised if the loader is this script."""
    monkeypatch.setattr(child, 'command', lambda *_arguments: ['sh', '-c', script])
    with pytest.raises(SockaccelError) as raised:
        asyncio.run(programs.load(10))
    return raised.value


@pytest.mark.parametrize(
    'script',
    [
        'kill -KILL $$',
        'echo "LLVM ERROR: out of memory" >&2; kill -ABRT $$',
        'echo "terminate called after throwing an instance of \'std::bad_alloc\'" >&2; kill -ABRT $$',
        'printf "Traceback:\\nMemoryError\\n" >&2; exit 1',
    ],
)
def test_one_that_found_no_memory(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    error = ended(monkeypatch, script)
    assert isinstance(error, LoaderEnded)
    assert 'memory' in str(error)
    assert 'MemoryMax=' in str(error)
    assert 'CAP_' not in str(error)


def test_one_that_ends_for_another_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ended(monkeypatch, f'kill -{signal.SIGSEGV.value} $$')
    assert 'memory' not in str(error)


def test_capabilities_are_named_only_where_they_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, 'missing', lambda *_names: ['CAP_PERFMON'])
    assert 'and has no CAP_PERFMON' in loader.what_it_lacks()
    monkeypatch.setattr(capabilities, 'missing', lambda *_names: [])
    monkeypatch.setattr(capabilities, 'in_first_user_namespace', lambda: False)
    assert 'in the first user namespace' in loader.what_it_lacks()
    monkeypatch.setattr(capabilities, 'in_first_user_namespace', lambda: True)
    assert 'CAP_' not in loader.what_it_lacks()
    assert 'memory' in loader.what_it_lacks()


def test_a_process_without_capabilities_misses_them() -> None:
    """Those of root come back for a program that root starts, but not after drop()."""
    script = (
        'import subprocess, sys; from sockaccel.core import capabilities\n'
        'assert capabilities.drop() == 0\n'
        'print(capabilities.missing("CAP_BPF", "CAP_NET_ADMIN"))\n'
        'sys.stdout.flush(); subprocess.run(["grep", "-E", "^(CapPrm|CapEff|CapAmb)", "/proc/self/status"])\n'
    )
    said = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert said[0] == "['CAP_BPF', 'CAP_NET_ADMIN']"
    # uid 0 keeps CAP_DAC_OVERRIDE.
    assert {int(line.split()[1], 16) & ~2 for line in said[1:]} == {0}
    assert len(said) == 4


def test_threads_that_stay_are_counted() -> None:
    script = (
        'import threading; from sockaccel.core import capabilities\n'
        'gone, stays = threading.Event(), threading.Event()\n'
        'threading.Thread(target=gone.wait, args=(0.2,)).start()\n'
        'assert capabilities.drop() == 0\n'
        'threading.Thread(target=stays.wait).start()\n'
        'assert capabilities.drop(0.1) == 1\n'
        'stays.set()\n'
    )
    subprocess.run([sys.executable, '-c', script], cwd=ROOT, check=True)
