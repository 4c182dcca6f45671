# SPDX-License-Identifier: GPL-2.0-or-later
"""The short-lived process that compiles and loads the BPF programs, hands over their fds and is gone.

BCC and LLVM take a hundred megabytes that a daemon should not keep, and print to fd 2 what they think of a
failure; both stay in here. `programs.py` is the daemon's side. What is imported here delays each cold start.
"""

import ctypes
import json
import os
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sockaccel import layout, libbpf, offsets
from sockaccel.errors import KernelRefused, SockaccelError, UnsupportedKernel

SOURCES = (
    'maps', 'events', 'targets', 'ends', 'listeners', 'rules', 'membership', 'verdict', 'connections', 'sockets',
    'probe',
)  # fmt: skip
PROGRAMS = {
    'sockaccel_join': libbpf.BPF_PROG_TYPE_SOCK_OPS,
    'sockaccel_stub': libbpf.BPF_PROG_TYPE_SK_MSG,
    'sockaccel_msg': libbpf.BPF_PROG_TYPE_SK_MSG,
    'sockaccel_probe': libbpf.BPF_PROG_TYPE_SK_MSG,
    'bpf_iter__bpf_sk_storage_map': libbpf.BPF_PROG_TYPE_TRACING,
    'bpf_iter__task_file': libbpf.BPF_PROG_TYPE_TRACING,
}
MAPS = (
    'sa_members', 'sa_peers', 'sa_connections', 'sa_listeners', 'sa_cgroups', 'sa_targets', 'sa_counters',
    'sa_settings', 'sa_rules', 'sa_events', 'sa_verdict', 'sa_sweep_wanted', 'sa_window', 'sa_grace',
    'sa_served', 'sa_met', 'sa_probe_pair', 'sa_probe_mode',
)  # fmt: skip
# struct bpf_insn; BPF_JMP | BPF_CALL; BPF_PSEUDO_KFUNC_CALL, in the upper half of the byte of registers.
_INSTRUCTION = struct.Struct('=BBhi')
_CALL = 0x85
_KERNEL_FUNCTION = 2


def defines(maximum_connections: int) -> dict[str, int]:
    """Every -D option that the BPF sources expect. Raises UnsupportedKernel."""
    values = offsets.defines() | {
        # Two ends each.
        'MAX_MEMBERS': 2 * maximum_connections,
        'MAX_LISTENERS': layout.MAX_LISTENERS,
        'MAX_SERVED': layout.MAX_SERVED,
        'MAX_MET': layout.MAX_MET,
        'MAX_CGROUPS': layout.MAX_CGROUPS,
        'MAX_TARGETS': layout.MAX_TARGETS,
        'MAX_CGROUP_DEPTH': layout.MAX_CGROUP_DEPTH,
        'MAX_RULES': layout.MAX_RULES,
        'EVENT_PAGES': layout.EVENT_PAGES,
        'PAGE_SIZE': os.sysconf('SC_PAGE_SIZE'),
        'O_NONBLOCK': os.O_NONBLOCK,
        'SIZEOF_FLOW': layout.FLOW.size,
        'SIZEOF_TARGET': layout.TARGET.size,
        'SIZEOF_EVENT': layout.EVENT.size,
        'SIZEOF_SETTINGS': layout.SETTINGS.size,
        'SIZEOF_RULE': layout.RULE.size,
    }
    # Since 6.10 and 6.18; without them a connection gets its program's name at its first message.
    if libbpf.has_helper(libbpf.BPF_PROG_TYPE_SOCK_OPS, libbpf.BPF_FUNC_GET_CURRENT_PID_TGID):
        values['SOCK_OPS_KNOWS_PID'] = 1
    if libbpf.has_helper(libbpf.BPF_PROG_TYPE_SOCK_OPS, libbpf.BPF_FUNC_GET_CURRENT_COMM):
        values['SOCK_OPS_KNOWS_COMM'] = 1
    return values


def program_text(source: Path) -> str:
    """The sources in a row: BCC rewrites map accesses only in the main file."""
    return ''.join(f'#line 1 "{name}.c"\n{(source / name).with_suffix(".c").read_text()}' for name in SOURCES)


def _name_kernel_functions(bcc: Any, module: Any, name: bytes, function: int | None) -> None:
    """Make calls of a kernel function what they are: LLVM 14 and BCC encode each call as one of a helper.

    bcc: its C library; function: BTF id. struct bpf_insn is in include/uapi/linux/bpf.h.
    """
    start, size = bcc.bpf_function_start(module, name), bcc.bpf_function_size(module, name)
    for address in range(start, start + size, _INSTRUCTION.size):
        instruction = (ctypes.c_char * _INSTRUCTION.size).from_address(address)
        code, registers, offset, immediate = _INSTRUCTION.unpack(instruction.raw)
        if code == _CALL and registers == 0 and immediate == function:
            instruction.raw = _INSTRUCTION.pack(code, _KERNEL_FUNCTION << 4, offset, immediate)


def _compile_and_load(
    maximum_connections: int, old_maps: Mapping[str, int], *, cast: bool = True
) -> dict[str, int]:
    """cast: read peers by bpf_rdonly_cast(), which a kernel may have and refuse, such as one without its JIT."""
    try:
        import bcc

        compiler = bcc.BPF
    except (ImportError, AttributeError) as exc:
        raise KernelRefused(
            f"cannot import BCC's Python module ({exc}): install your distribution's package python3-bpfcc"
        ) from exc

    source = layout.source_directory()
    values = defines(maximum_connections)
    if not cast:
        values.pop('KFUNC_rdonly_cast', None)
    options = [f'-D{name}={value}' for name, value in values.items()]
    try:
        module = compiler(text=program_text(source), cflags=[f'-I{source}', '-Wall', '-Werror', *options])
    except Exception as exc:
        raise KernelRefused(
            f'cannot compile the BPF programs or make their maps ({exc}): the daemon needs CAP_BPF, '
            'CAP_NET_ADMIN and CAP_PERFMON, or root'
        ) from exc
    tables = {name: bcc.lib.bpf_table_fd(module.module, name.encode()) for name in MAPS}
    # BCC makes maps when it compiles, and programs name them by the number of their fd when they are loaded.
    for name, fd in old_maps.items():
        os.dup2(fd, tables[name], inheritable=False)
    fds = {}
    for name, program_type in PROGRAMS.items():
        try:
            _name_kernel_functions(bcc.lib, module.module, name.encode(), values.get('KFUNC_rdonly_cast'))
            fds[name] = module.load_func(name, program_type).fd
        except Exception as exc:
            if 'KFUNC_rdonly_cast' in values:
                return _compile_and_load(maximum_connections, old_maps, cast=False)
            raise UnsupportedKernel(
                f'kernel {os.uname().release} does not take the BPF program "{name}" ({exc}): sockaccel needs '
                'kernel 6.1.123 or newer, and CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root'
            ) from exc
    return fds if old_maps else fds | tables


def main() -> int:
    """argv: the fd of the socket for the answer, the limit of connections, the fds of earlier maps as JSON."""
    answer = socket.socket(fileno=int(sys.argv[1]))
    try:
        fds = _compile_and_load(int(sys.argv[2]), json.loads(sys.argv[3]))
    except SockaccelError as exc:
        answer.send(json.dumps({'error': str(exc), 'kind': type(exc).__name__}).encode())
        return 1
    socket.send_fds(answer, [json.dumps({'names': list(fds)}).encode()], list(fds.values()))
    # BCC's exit handlers would tidy up what now belongs to the daemon.
    os._exit(0)


if __name__ == '__main__':
    sys.exit(main())
