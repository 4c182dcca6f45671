# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs that lead connections to proxies: a process of their own that compiles and loads them.

They are wanted when the first target is intercepted, which may be never, or long after the daemon gave up its
capabilities. So this process is started before, waits as a shell that reads one line, and ends with the daemon.
"""

import asyncio
import ctypes
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sockaccel.core import child
from sockaccel.core.limits import MAX_NETWORKS
from sockaccel.errors import KernelRefused, LoaderEnded, SockaccelError
from sockaccel.kernel import handover, libbpf, loader, offsets, sources
from sockaccel.kernel.libbpf import KernelTypes
from sockaccel.kernel.programs import Digests

LAYOUT = 'lib/lead_maps.c'
SOURCES = (
    LAYOUT, 'lib/flows.c', 'lib/owners.c', 'lib/networks.c', 'lib/iterators.c', 'doors.c', 'entrances.c',
    'passing.c', 'inbound.c', 'lead.c', 'origins.c',
)  # fmt: skip
MAPS = (
    'sa_leads', 'sa_lead_rules', 'sa_lead_counts', 'sa_lead_down', 'sa_places', 'sa_parents', 'sa_owners',
    'sa_origins', 'sa_led', 'sa_led_count', 'sa_lead_drains', 'sa_lead_events', 'sa_lead_grace', 'sa_networks',
    'sa_inbound', 'sa_door_ports', 'sa_entrances', 'sa_doors', 'sa_door_cookies', 'sa_past', 'sa_past_count',
    'sa_lead_walk',
)  # fmt: skip


class Hook(NamedTuple):
    """Where a program is attached: constants of include/uapi/linux/bpf.h."""

    program_type: int
    attach_type: int


_SOCK_OPS, _SOCK_ADDR, _SOCKOPT, _SK_LOOKUP = 13, 18, 25, 30
# By the name of the program. This one is attached to the cgroups of proxies.
ASKED = 'sockaccel_asked'
# To the root, in the order in which they are attached: what a led connection needs comes before what leads it.
OF_ROOT = {
    'sockaccel_led': Hook(_SOCK_OPS, 3),
    'sockaccel_name4': Hook(_SOCK_ADDR, 29),
    'sockaccel_name6': Hook(_SOCK_ADDR, 30),
    'sockaccel_lead4': Hook(_SOCK_ADDR, 10),
    'sockaccel_lead6': Hook(_SOCK_ADDR, 11),
}
# To the root too, where connections that come in are led.
OF_ENTRANCES = {'sockaccel_bind4': Hook(_SOCK_ADDR, 8), 'sockaccel_bind6': Hook(_SOCK_ADDR, 9)}
# To the network namespace with this number: copies of one program, in which the number is written.
_NETWORK = 'sockaccel_network'
OF_NETWORK = {f'{_NETWORK}{number}': Hook(_SK_LOOKUP, 36) for number in range(1, MAX_NETWORKS + 1)}
# struct bpf_insn: r? = a number of 64 bits, in two instructions. The number is that of bpf/inbound.c.
_INSTRUCTION = struct.Struct('=BBhi')
_LOAD_NUMBER = 0x18
_PLACE_OF_NUMBER = 0x6E6574776F726B
# Walks over the open files of all tasks.
WALK = 'bpf_iter__task_file'
# Walks over the sockets that were led.
LIST = 'bpf_iter__bpf_sk_storage_map'
PROGRAMS = {
    ASKED: Hook(_SOCKOPT, 21), **OF_ROOT, **OF_ENTRANCES, **OF_NETWORK,
    **dict.fromkeys((WALK, LIST), Hook(libbpf.BPF_PROG_TYPE_TRACING, libbpf.BPF_TRACE_ITER)),
}  # fmt: skip
_NO_ATTACH_TYPE = (_SOCK_OPS, libbpf.BPF_PROG_TYPE_TRACING)
# Beyond those that every program reads (offsets.FIELDS).
_FIELDS = {
    'kernfs_node_name': ('kernfs_node', 'name'),
    'tcp_sock_bytes_received': ('tcp_sock', 'bytes_received'),
    'net_inode': ('net', 'ns.inum'),
}
# $0 of the shell that waits, which `systemctl status` and ps show.
_NAME = 'sockaccel-lead-loader'
_WAIT = 'read -r _ && exec "$@"'


def digests(source: Path | None = None) -> Digests:
    """Of what the process would make now. source: the directory of the BPF sources."""
    source = source or sources.directory()
    layout = hashlib.sha256(sources.layout_text(source, LAYOUT).encode())
    code = hashlib.sha256(layout.digest() + repr(os.uname()).encode())
    for path in (*sorted(source.rglob('*.[ch]')), Path(__file__), Path(offsets.__file__)):
        code.update(path.read_bytes())
    return Digests(layout.hexdigest()[:16], code.hexdigest()[:16])


class Waiting:
    """The process, which waits. The constructor must run while the daemon has its capabilities.

    maps: fds, by name, of an earlier daemon's maps; only programs are made then. Raises OSError.
    """

    def __init__(self, maps: Mapping[str, int] | None = None) -> None:
        maps = maps or {}
        self._ours, theirs = handover.channel()
        # A file and no pipe: nobody need read it while the process runs.
        self._said = os.fdopen(os.memfd_create('sockaccel-lead-loader'), 'w+b')
        command = child.command('sockaccel.kernel.lead_programs', json.dumps(maps))
        with theirs:
            self._process = subprocess.Popen(
                ['/bin/sh', '-c', _WAIT, _NAME, *command],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=self._said, pass_fds=tuple(maps.values()),
                cwd=child.DIRECTORY, env={**os.environ, 'BCC_KERNEL_SOURCE': str(sources.directory())},
            )  # fmt: skip

    async def load(self) -> dict[str, int]:
        """Let it compile and load; returns fds by name. The process has ended then.

        Raises UnsupportedKernel, KernelRefused, MissingDependency or LoaderEnded; what the compiler and the
        verifier printed is in the exception's __notes__.
        """
        try:
            self._ours.send(b'\n')
            await _readable(self._ours)
            return handover.receive(self._ours)
        except (EOFError, OSError):
            self._process.wait()
            error: SockaccelError = LoaderEnded(
                f'the process that loads the programs for interception ended with status '
                f'{self._process.returncode} and no answer: restart sockaccel, and see whether there is enough '
                f'memory; {loader.ENOUGH_MEMORY}'
            )
        except SockaccelError as exc:
            error = exc
        finally:
            said = self._finish()
        if said:
            error.add_note(said)
        raise error

    def close(self) -> None:
        """End the process. A repeated call is no error."""
        self._finish()

    def _finish(self) -> str:
        """Wait for its end, which comes now; returns what it printed."""
        if self._said.closed:
            return ''
        self._ours.close()
        self._process.wait()
        with self._said:
            self._said.seek(0)
            return self._said.read().decode(errors='replace').strip()


async def _readable(end: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    happened = asyncio.Event()
    loop.add_reader(end, happened.set)
    try:
        await happened.wait()
    finally:
        loop.remove_reader(end)


def _defines() -> dict[str, int]:
    """Every -D option that the sources expect. Raises UnsupportedKernel, LoaderEnded."""
    values = offsets.defines() | {'O_NONBLOCK': os.O_NONBLOCK}
    # With a call of a helper each read is slower, and BCC needs no help. A connect() can afford it.
    values.pop('KFUNC_rdonly_cast', None)
    with KernelTypes() as types:
        for name, path in _FIELDS.items():
            try:
                values[f'OFFSET_{name}'] = offsets.locate(types, *path).offset
            except KeyError as exc:
                raise KernelRefused(f'this kernel has no "{exc.args[0]}", which interception needs') from exc
    return values


def _compile(bcc: Any, values: Mapping[str, int]) -> Any:
    source = sources.directory()
    options = [f'-D{name}={value}' for name, value in values.items()]
    try:
        return bcc.BPF(
            text=sources.text(SOURCES, source),
            cflags=[f'-I{source}', '-Wall', '-Werror', '-Wno-unused-function', *options],
        )
    except Exception as exc:
        raise KernelRefused(
            f'cannot compile the programs for interception or make their maps ({exc}): {loader.what_it_lacks()}'
        ) from exc


def _load_networks(lib: Any, module: Any) -> dict[str, int]:
    """The programs of network namespaces. Raises KernelRefused."""
    symbol = _NETWORK.encode()
    code = ctypes.string_at(lib.bpf_function_start(module, symbol), lib.bpf_function_size(module, symbol))
    programs = {}
    for number, (name, hook) in enumerate(OF_NETWORK.items(), 1):
        try:
            programs[name] = libbpf.load(
                symbol[: libbpf.NAME_LENGTH], with_number(code, number), program_type=hook.program_type,
                attach_type=hook.attach_type,
            )  # fmt: skip
        except OSError as exc:
            raise KernelRefused(
                f'kernel {os.uname().release} does not take the program "{_NETWORK}" for interception '
                f'({exc.strerror}): {loader.what_it_lacks()}'
            ) from exc
    return programs


def with_number(code: bytes, number: int) -> bytes:
    """The program of a network namespace with its number in the place that is left for it."""
    low, high = _PLACE_OF_NUMBER & 0xFFFFFFFF, _PLACE_OF_NUMBER >> 32
    for at in range(0, len(code), _INSTRUCTION.size):
        operation, registers, offset, immediate = _INSTRUCTION.unpack_from(code, at)
        if operation == _LOAD_NUMBER and registers >> 4 == 0 and immediate == low:
            second = at + _INSTRUCTION.size
            assert _INSTRUCTION.unpack_from(code, second)[3] == high
            made = bytearray(code)
            _INSTRUCTION.pack_into(made, at, operation, registers, offset, number)
            _INSTRUCTION.pack_into(made, second, 0, 0, 0, 0)
            return bytes(made)
    raise ValueError('the program has no place for its number')


def _load(old_maps: Mapping[str, int]) -> dict[str, int]:
    """Make programs and, without old maps, maps. Returns their fds by name. Raises SockaccelError."""
    bcc = loader.import_bcc()
    module = _compile(bcc, _defines())
    maps = {name: int(bcc.lib.bpf_table_fd(module.module, name.encode())) for name in MAPS}
    for name, fd in old_maps.items():
        # Programs that are not loaded yet name maps by fd.
        os.dup2(fd, maps[name], inheritable=False)
    programs = _load_networks(bcc.lib, module.module)
    for name, hook in PROGRAMS.items():
        if name in OF_NETWORK:
            continue
        attach_type = -1 if hook.program_type in _NO_ATTACH_TYPE else hook.attach_type
        try:
            programs[name] = module.load_func(name.encode(), hook.program_type, attach_type=attach_type).fd
        except Exception as exc:
            raise KernelRefused(
                f'kernel {os.uname().release} does not take the program "{name}" for interception ({exc}): '
                f'{loader.what_it_lacks()}'
            ) from exc
    return programs if old_maps else programs | maps


def main() -> int:
    """argv: fds of earlier maps by name as JSON. Standard input is the socket for the answer."""
    answer = socket.socket(fileno=os.dup(0))
    try:
        fds = _load(json.loads(sys.argv[1]))
    except SockaccelError as exc:
        handover.send_failure(answer, exc)
        return 1
    handover.send(answer, fds)
    # BCC's exit handlers would detach and close what belongs to the daemon now.
    os._exit(0)
