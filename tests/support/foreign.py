# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of somebody else on a cgroup (foreign.c), in a process of their own; `main()` is that process.

They are attached as most of the world does, by BPF_F_ALLOW_MULTI and not by a link.
"""

import argparse
import contextlib
import ctypes
import importlib
import json
import os
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from sockaccel.kernel import libbpf
from tests.conformance.unchecked import kernel_source
from tests.support.harness import ROOT, Cgroup

# enum seen
ESTABLISHED, ROUND_TRIP, CLOSED = 1, 2, 4
_ALLOW_MULTI = 2
_U32, _U64 = struct.Struct('=I'), struct.Struct('=Q')


class Foreign:
    """A context manager: a sock_ops program of foreign.c on a cgroup. verdict: whether its sockmap has one."""

    def __init__(self, cgroup: Cgroup, program: str, *, verdict: bool = False) -> None:
        self._cgroup = cgroup
        self._program = program
        options = ['--verdict'] if verdict else []
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'tests.support.foreign', *options, str(cgroup.directory), program],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        # Its compiler may have said on stderr why not.
        assert self._answer() == 'attached'
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline() or 'null')

    def _ask(self, what: str) -> Any:
        assert self._process.stdin
        self._process.stdin.write(f'{what}\n')
        self._process.stdin.flush()
        return self._answer()

    @property
    def attached(self) -> bool:
        """Whether it still is."""
        shown = subprocess.run(
            ['bpftool', 'cgroup', 'show', self._cgroup.directory], capture_output=True, text=True, check=True
        )
        return self._program in shown.stdout

    def seen(self) -> dict[int, int]:
        """Of how many ends it has seen what."""
        return {int(what): count for what, count in self._ask('seen').items()}

    def owned(self) -> set[int]:
        """The cookies of the sockets in its sockmap."""
        return set(self._ask('owned'))

    def messages(self) -> int:
        """How many messages its verdict was asked about."""
        return int(self._ask('messages'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--verdict', action='store_true')
    parser.add_argument('cgroup', type=Path)
    parser.add_argument('program')
    options = parser.parse_args()
    os.environ['BCC_KERNEL_SOURCE'] = str(kernel_source())
    bcc = importlib.import_module('bcc')  # only here: it takes 70 MB, and reads the variable above

    module = bcc.BPF(src_file=os.fsencode(Path(__file__).with_suffix('.c')))
    maps = {name: bcc.libbcc.lib.bpf_table_fd(module.module, name) for name in (b'ends', b'owned', b'messages')}
    if options.verdict:
        libbpf.attach_map(
            module.load_func('on_message', bcc.BPF.SK_MSG).fd, maps[b'owned'], libbpf.BPF_SK_MSG_VERDICT
        )
    with _attached(module.load_func(options.program, bcc.BPF.SOCK_OPS).fd, options.cgroup):
        print('"attached"', flush=True)
        for line in sys.stdin:
            print(json.dumps(_answer(line.strip(), maps)), flush=True)


@contextlib.contextmanager
def _attached(program: int, cgroup: Path) -> Iterator[None]:
    library = ctypes.CDLL('libbpf.so.1', use_errno=True)
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if library.bpf_prog_attach(program, directory, libbpf.BPF_CGROUP_SOCK_OPS, _ALLOW_MULTI) < 0:
        raise OSError(ctypes.get_errno(), 'bpf_prog_attach')
    try:
        yield
    finally:
        library.bpf_prog_detach2(program, directory, libbpf.BPF_CGROUP_SOCK_OPS)


def _answer(what: str, maps: dict[bytes, int]) -> Any:
    match what:
        case 'seen':
            values = (libbpf.map_lookup(maps[b'ends'], key, 4) for key in libbpf.map_keys(maps[b'ends'], 8))
            return Counter(_U32.unpack(value)[0] for value in values if value)
        case 'owned':
            return [_U64.unpack(key)[0] for key in libbpf.map_keys(maps[b'owned'], 8)]
        case 'messages':
            return _U64.unpack(libbpf.map_lookup(maps[b'messages'], _U32.pack(0), 8) or b'')[0]
    raise ValueError(what)


if __name__ == '__main__':
    main()
