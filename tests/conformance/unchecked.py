# SPDX-License-Identifier: GPL-2.0-or-later
"""The control: a redirect of every loopback message without any check, for one cgroup.

A child process compiles, attaches and holds the programs, so that they go when it goes. It attaches by
links and to a map of its own, never by a cgroup attachment that would outlive it.
"""

import argparse
import contextlib
import ctypes
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_suffix('.c')

# enum bpf_attach_type
CGROUP_SOCK_OPS = 3
SK_MSG_VERDICT = 7


class ControlFailed(RuntimeError):
    """The control could not be compiled or attached; the text is the compiler's or the kernel's."""


def kernel_source(named: Path | None = None) -> Path:
    """The directory that BCC takes for a kernel source tree: the one with include/linux/kconfig.h.

    Without a name it is SOCKACCEL_KERNEL_SOURCE or the repository's own stub headers.
    """
    tree = named or Path(os.environ.get('SOCKACCEL_KERNEL_SOURCE') or REPOSITORY / 'bpf')
    return tree.parent if (tree / 'linux' / 'kconfig.h').exists() else tree


@contextlib.contextmanager
def attached(cgroup: Path, headers: Path | None = None) -> Iterator[None]:
    """Run the control on the cgroup for the length of the block. Raises ControlFailed."""
    command = [sys.executable, '-m', 'tests.conformance.unchecked', '--cgroup', str(cgroup)]
    if headers:
        command += ['--headers', str(headers)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        if child.stdout.readline() != 'attached\n':
            _, errors = child.communicate()
            raise ControlFailed(errors)
        try:
            yield
        finally:
            child.communicate()


def _hold(cgroup: Path, headers: Path | None) -> None:
    os.environ['BCC_KERNEL_SOURCE'] = str(kernel_source(headers))
    bcc = importlib.import_module('bcc')  # only here: it takes 70 MB, and reads the variable above

    module = bcc.BPF(src_file=os.fsencode(PROGRAM))
    on_established = module.load_func('on_established', bcc.BPF.SOCK_OPS)
    on_message = module.load_func('on_message', bcc.BPF.SK_MSG)
    # BCC 0.26 has no Python class for this kind of map, but its library gives the descriptor.
    sockets = bcc.libbcc.lib.bpf_table_fd(module.module, b'sockets')

    libbpf = ctypes.CDLL('libbpf.so.1', use_errno=True)
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    # This attachment goes with the map, and the map with this process and the sockets in it.
    _check(libbpf.bpf_prog_attach(on_message.fd, sockets, SK_MSG_VERDICT, 0), 'attach sk_msg')
    _check(libbpf.bpf_link_create(on_established.fd, directory, CGROUP_SOCK_OPS, None), 'link sock_ops')
    print('attached', flush=True)
    sys.stdin.read()


def _check(result: int, action: str) -> None:
    if result < 0:
        raise ControlFailed(f'{action}: {os.strerror(-result)}')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--cgroup', type=Path, required=True)
    parser.add_argument('--headers', type=Path, help='tree with the stub headers (default: bpf/)')
    arguments = parser.parse_args()
    _hold(arguments.cgroup, arguments.headers)
