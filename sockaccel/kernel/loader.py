# SPDX-License-Identifier: GPL-2.0-or-later
"""A process of its own: compiles and loads the BPF programs, sends their fds to the daemon, and ends.

BCC and LLVM take a hundred megabytes that a daemon should not keep, and print to fd 2 why something failed.
`programs.py` is the daemon's side. What is imported here delays each cold start.
"""

import contextlib
import ctypes
import json
import os
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, TypeVar

from sockaccel.core import capabilities
from sockaccel.errors import KernelRefused, LoaderEnded, MissingDependency, SockaccelError, UnsupportedKernel
from sockaccel.kernel import handover, libbpf, offsets, sources, watched

ENOUGH_MEMORY = 'it takes 300 MB for a few seconds; limits are MemoryMax= of the unit, and "ulimit -v"'
# The sources with which every part begins.
_SHARED = (
    sources.MAPS, 'lib/counting.c', 'lib/flows.c', 'lib/keys.c', 'lib/targets.c', 'lib/reporting.c', 'lib/ends.c',
    'lib/keeping.c', 'lib/programs.c', 'lib/listeners.c', 'lib/rules.c',
)  # fmt: skip
MAPS = (
    'sa_members', 'sa_peers', 'sa_ends', 'sa_listeners', 'sa_cgroups', 'sa_targets', 'sa_counters',
    'sa_settings', 'sa_rules', 'sa_listing', 'sa_events', 'sa_verdict', 'sa_sweep_wanted', 'sa_window', 'sa_grace',
    'sa_served', 'sa_own_listeners', 'sa_kept', 'sa_audited', 'sa_found', 'sa_programs', 'sa_names',
    'sa_unknown_program', 'sa_probe_pair', 'sa_probe_mode', 'sa_audit', 'sa_auditing', 'sa_calls',
    'sa_refusals',
)  # fmt: skip


class Part(NamedTuple):
    """What is compiled together. sources: below bpf/, each behind those that it needs; programs: name -> type.

    watchers: programs that this kernel may refuse, by name.
    """

    sources: tuple[str, ...]
    programs: dict[str, int]
    watchers: Mapping[str, watched.Watcher] = MappingProxyType({})

    def with_watchers(self, watchers: Mapping[str, watched.Watcher]) -> 'Part':
        """The same part with watchers too."""
        if not watchers:
            return self
        return self._replace(sources=(*self.sources, 'watch.c', 'abort.c'), watchers=watchers)


# LLVM takes most of a cold start and uses one CPU, so each part is compiled by a process of its own.
DATA_PATH = Part(
    (*_SHARED, 'membership.c', 'release.c', 'verdict.c', 'stub.c', 'probe.c'),
    {
        'sockaccel_join': libbpf.BPF_PROG_TYPE_SOCK_OPS,
        'sockaccel_release': libbpf.BPF_PROG_TYPE_CGROUP_SOCK,
        'sockaccel_stub': libbpf.BPF_PROG_TYPE_SK_MSG,
        'sockaccel_msg': libbpf.BPF_PROG_TYPE_SK_MSG,
        'sockaccel_probe': libbpf.BPF_PROG_TYPE_SK_MSG,
    },
)
WALKS = Part(
    (
        *_SHARED,
        'lib/iterators.c',
        'visit.c',
        'pause.c',
        'judge.c',
        'evict.c',
        'walk.c',
        'audit.c',
        'find_sockets.c',
    ),
    {
        'bpf_iter__bpf_sk_storage_map': libbpf.BPF_PROG_TYPE_TRACING,
        'bpf_iter__task_file': libbpf.BPF_PROG_TYPE_TRACING,
    },
)
PROGRAMS = DATA_PATH.programs | WALKS.programs
# Those that are attached to a cgroup, and where.
CGROUP_PROGRAMS = {
    'sockaccel_join': libbpf.BPF_CGROUP_SOCK_OPS,
    'sockaccel_release': libbpf.BPF_CGROUP_INET_SOCK_RELEASE,
}
# Some kernels have none of them, and some a few.
WATCHERS = frozenset((*watched.WATCHERS, watched.ABORTER))
# Both parts, for a machine with one CPU.
WHOLE = Part((*DATA_PATH.sources, *WALKS.sources[len(_SHARED) :]), PROGRAMS)
# struct bpf_insn; BPF_JMP | BPF_CALL; BPF_PSEUDO_KFUNC_CALL, in the upper half of the byte of registers.
_INSTRUCTION = struct.Struct('=BBhi')
_CALL = 0x85
_CAST = 'KFUNC_rdonly_cast'
_T = TypeVar('_T')
_KERNEL_FUNCTION = 2


def map_defines(maximum_connections: int) -> dict[str, int]:
    """The -D options that can shape a map."""
    # A connection has two ends.
    return {'MAX_MEMBERS': 2 * maximum_connections, 'PAGE_SIZE': os.sysconf('SC_PAGE_SIZE')}


def defines(maximum_connections: int) -> dict[str, int]:
    """Every -D option that the BPF sources expect. Raises UnsupportedKernel."""
    return offsets.defines() | map_defines(maximum_connections) | {'O_NONBLOCK': os.O_NONBLOCK}


def _name_kernel_functions(bcc: Any, module: Any, name: bytes, function: int | None) -> None:
    """Turn calls of helper number `function` into calls of the kernel function with this BTF id.

    LLVM 14 and BCC encode each call as one of a helper. bcc: BCC's C library; name: of the program to change.
    struct bpf_insn is in include/uapi/linux/bpf.h.
    """
    start, size = bcc.bpf_function_start(module, name), bcc.bpf_function_size(module, name)
    for address in range(start, start + size, _INSTRUCTION.size):
        instruction = (ctypes.c_char * _INSTRUCTION.size).from_address(address)
        code, registers, offset, immediate = _INSTRUCTION.unpack(instruction.raw)
        if code == _CALL and registers == 0 and immediate == function:
            instruction.raw = _INSTRUCTION.pack(code, _KERNEL_FUNCTION << 4, offset, immediate)


def import_bcc() -> Any:
    """Raises MissingDependency, LoaderEnded."""
    try:
        import bcc

        bcc.BPF  # noqa: B018 - another project on PyPI has that name too
    except (ImportError, AttributeError, OSError) as exc:
        # What ld.so says when mmap(2) has failed.
        if isinstance(exc, OSError) and str(exc).endswith('failed to map segment from shared object'):
            raise LoaderEnded(f'cannot load the BPF compiler ({exc}): {ENOUGH_MEMORY}') from exc
        raise MissingDependency(
            f"cannot import BCC's Python module ({exc}): install your distribution's package python3-bpfcc"
        ) from exc
    return bcc


def what_it_lacks() -> str:
    """BCC does not tell with which error the kernel said no: whether for a capability is looked up here."""
    needed = 'the daemon needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root'
    if missing := capabilities.missing('CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON'):
        return f'{needed}, and has no {" and no ".join(missing)}'
    if not capabilities.in_first_user_namespace():
        return f'{needed}, in the first user namespace, and is in another one'
    return (
        'it may have too little memory: beside the compiler, the maps take 1.5 kB for each of '
        'MaximumConnections=; limits are MemoryMax= of the unit, and "ulimit -v"'
    )


class Compiled:
    """A part that is compiled, with the maps that BCC made for it (`maps`: name -> fd).

    The constructor raises KernelRefused.
    """

    def __init__(self, bcc: Any, part: Part, values: Mapping[str, int]) -> None:
        self._bcc = bcc
        self._part = part
        self._values = values
        source = sources.directory()
        options = [f'-D{name}={value}' for name, value in values.items()]
        try:
            self._module = bcc.BPF(
                text=sources.text(part.sources, source),
                # No part uses every function of bpf/lib.
                cflags=[f'-I{source}', '-Wall', '-Werror', '-Wno-unused-function', *options],
            )
        except Exception as exc:
            raise KernelRefused(
                f'cannot compile the BPF programs or make their maps ({exc}): {what_it_lacks()}'
            ) from exc
        fds = {name: bcc.lib.bpf_table_fd(self._module.module, name.encode()) for name in MAPS}
        self.maps = {name: fd for name, fd in fds.items() if fd >= 0}

    def use(self, maps: Mapping[str, int]) -> None:
        """Take these maps in the place of the part's own: programs that are not loaded yet name maps by fd."""
        for name, number in self.maps.items():
            os.dup2(maps[name], number, inheritable=False)

    def load(self) -> dict[str, int]:
        """Load the programs. Returns their fds by name. Raises UnsupportedKernel."""
        fds = {}
        for name, program_type in self._part.programs.items():
            try:
                _name_kernel_functions(self._bcc.lib, self._module.module, name.encode(), self._values.get(_CAST))
                fds[name] = self._load(name, program_type)
            except Exception as exc:
                if _CAST in self._values:
                    return self._load_without_cast()
                raise UnsupportedKernel(
                    f'kernel {os.uname().release} does not take the BPF program "{name}" ({exc}): sockaccel needs '
                    f'kernel 6.1.123 or newer; {what_it_lacks()}'
                ) from exc
        return fds | self._load_watchers()

    def _load(self, name: str, program_type: int) -> int:
        # The kernel asks a program of some types where it will be attached. -1: BCC does not say.
        at = CGROUP_PROGRAMS[name] if program_type == libbpf.BPF_PROG_TYPE_CGROUP_SOCK else -1
        return int(self._module.load_func(name, program_type, attach_type=at).fd)

    def _load_watchers(self) -> dict[str, int]:
        """Those that the kernel takes."""
        fds = {}
        for name, watcher in self._part.watchers.items():
            module, symbol = self._module.module, name.encode()
            for called in (_CAST, watched.KFUNC_DESTROY):
                _name_kernel_functions(self._bcc.lib, module, symbol, self._values.get(called))
            code = ctypes.string_at(
                self._bcc.lib.bpf_function_start(module, symbol), self._bcc.lib.bpf_function_size(module, symbol)
            )
            with contextlib.suppress(OSError):
                function = self._values[f'FUNCTION_{watcher.function}']
                fds[name] = libbpf.load_tracing(symbol, code, watcher.at, function)
        return fds

    def _load_without_cast(self) -> dict[str, int]:
        """Some kernels have bpf_rdonly_cast() and refuse it, such as one without its JIT."""
        values = {name: value for name, value in self._values.items() if name != _CAST}
        again = Compiled(self._bcc, self._part, values)
        again.use(self.maps)
        return again.load()


def _load_walks(data_path: socket.socket, bcc: Any, values: Mapping[str, int]) -> NoReturn:
    """What the second process does. data_path: the channel to the first process, which sends the maps."""
    status = 1
    try:
        walks = Compiled(bcc, WALKS.with_watchers(watched.taken(values)), values)
        walks.use(handover.receive(data_path))
        handover.send(data_path, walks.load())
        status = 0
    except SockaccelError as exc:
        handover.send_failure(data_path, exc)
        # Stay until the maps are there: if this process ended before, neither they nor the failure would arrive.
        data_path.recv(1)
    except EOFError:
        pass
    except BaseException:  # noqa: BLE001 - the process ends here in any case
        # What is printed becomes a note of the exception that the daemon raises.
        traceback.print_exc()
    finally:
        os._exit(status)


def _load_by_two(bcc: Any, values: Mapping[str, int], old_maps: Mapping[str, int]) -> dict[str, int]:
    ours, theirs = handover.channel()
    walker = os.fork()
    if not walker:
        ours.close()
        _load_walks(theirs, bcc, values)
    theirs.close()
    try:
        with ours:
            data_path = Compiled(bcc, DATA_PATH, values)
            if old_maps:
                data_path.use(old_maps)
            _with_other_half(lambda: handover.send(ours, data_path.maps))
            programs = data_path.load()
            return data_path.maps | programs | _with_other_half(lambda: handover.receive(ours))
    finally:
        os.waitpid(walker, 0)


def _with_other_half(talk: Callable[[], _T]) -> _T:
    """Exchange a message with the second process. Raises LoaderEnded."""
    try:
        return talk()
    except (EOFError, OSError) as exc:
        raise LoaderEnded(
            'the process that compiles half of the BPF programs has ended: is there enough memory? '
            f'{ENOUGH_MEMORY}'
        ) from exc


def _load_alone(bcc: Any, values: Mapping[str, int], old_maps: Mapping[str, int]) -> dict[str, int]:
    whole = Compiled(bcc, WHOLE.with_watchers(watched.taken(values)), values)
    if old_maps:
        whole.use(old_maps)
    return whole.maps | whole.load()


def _load(maximum_connections: int, old_maps: Mapping[str, int]) -> dict[str, int]:
    """Make programs and, without old maps, maps. Returns their fds by name. Raises SockaccelError."""
    bcc = import_bcc()
    values = defines(maximum_connections)
    load = _load_by_two if len(os.sched_getaffinity(0)) > 1 else _load_alone
    fds = load(bcc, values, old_maps)
    return {name: fd for name, fd in fds.items() if name not in MAPS or not old_maps}


def main() -> int:
    """argv: fd of the socket for the answer, limit of connections, fds of earlier maps by name as JSON."""
    answer = socket.socket(fileno=int(sys.argv[1]))
    try:
        fds = _load(int(sys.argv[2]), json.loads(sys.argv[3]))
    except SockaccelError as exc:
        handover.send_failure(answer, exc)
        return 1
    handover.send(answer, fds)
    # BCC's exit handlers would detach and close what belongs to the daemon now.
    os._exit(0)
