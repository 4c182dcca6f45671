# SPDX-License-Identifier: GPL-2.0-or-later
"""The maps of a running daemon."""

import contextlib
import ctypes
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.harness import Daemon

# enum bpf_map_type
_HASH = '1'


@contextlib.contextmanager
def map_of(daemon: Daemon, name: str) -> Iterator[int]:
    """An fd of a hash map of the daemon's."""
    libbpf_so = ctypes.CDLL('libbpf.so.1', use_errno=True)
    for path in Path(f'/proc/{daemon.process.pid}/fdinfo').iterdir():
        said = dict(line.split(':\t', 1) for line in path.read_text().splitlines() if ':\t' in line)
        if said.get('map_type') != _HASH:
            continue
        number = said['map_id']
        command = ['bpftool', '--json', 'map', 'show', 'id', number]
        if json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)['name'] != name[:15]:
            continue
        fd = libbpf_so.bpf_map_get_fd_by_id(int(number))
        assert fd >= 0
        try:
            yield fd
        finally:
            os.close(fd)
        return
    raise AssertionError(f'the daemon has no map "{name}"')
