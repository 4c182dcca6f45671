# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs that lead connections to proxies: a process of their own that compiles and loads them.

They are wanted when the first target is intercepted, which may be never, or long after the daemon gave up its
capabilities. So this process is started before, waits as a shell that reads one line, and ends with the daemon.
"""

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sockaccel.core import child
from sockaccel.errors import KernelRefused, LoaderEnded, SockaccelError
from sockaccel.kernel import handover, libbpf, loader, offsets, sources
from sockaccel.kernel.libbpf import KernelTypes
from sockaccel.kernel.programs import Digests

LAYOUT = 'lib/lead_maps.c'
SOURCES = (LAYOUT, 'lib/flows.c', 'lead.c')
MAPS = (
    'sa_leads', 'sa_lead_rules', 'sa_lead_counts', 'sa_lead_down', 'sa_places', 'sa_parents', 'sa_owners',
    'sa_origins', 'sa_led', 'sa_led_count', 'sa_lead_drains', 'sa_lead_events', 'sa_lead_grace',
)  # fmt: skip


class Hook(NamedTuple):
    """Where a program is attached: constants of include/uapi/linux/bpf.h."""

    program_type: int
    attach_type: int


_SOCK_OPS, _SOCK_ADDR, _SOCKOPT = 13, 18, 25
# By the name of the program. This one is attached to the cgroups of proxies, the others to the root.
ASKED = 'sockaccel_asked'
# In the order in which they are attached: what a led connection needs is there before the first is led.
PROGRAMS = {
    ASKED: Hook(_SOCKOPT, 21),
    'sockaccel_led': Hook(_SOCK_OPS, 3),
    'sockaccel_name4': Hook(_SOCK_ADDR, 29),
    'sockaccel_name6': Hook(_SOCK_ADDR, 30),
    'sockaccel_lead4': Hook(_SOCK_ADDR, 10),
    'sockaccel_lead6': Hook(_SOCK_ADDR, 11),
}
# Beyond those that every program reads (offsets.FIELDS).
_FIELDS = {
    'kernfs_node_name': ('kernfs_node', 'name'),
    'tcp_sock_bytes_received': ('tcp_sock', 'bytes_received'),
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


def _load(old_maps: Mapping[str, int]) -> dict[str, int]:
    """Make programs and, without old maps, maps. Returns their fds by name. Raises SockaccelError."""
    bcc = loader.import_bcc()
    module = _compile(bcc, _defines())
    maps = {name: int(bcc.lib.bpf_table_fd(module.module, name.encode())) for name in MAPS}
    for name, fd in old_maps.items():
        # Programs that are not loaded yet name maps by fd.
        os.dup2(fd, maps[name], inheritable=False)
    programs = {}
    for name, hook in PROGRAMS.items():
        attach_type = -1 if hook.program_type == libbpf.BPF_PROG_TYPE_SOCK_OPS else hook.attach_type
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
