# SPDX-License-Identifier: GPL-2.0-or-later
"""How the daemon gets BPF programs and maps: as fds from the loader, a child process."""

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sockaccel.core import child
from sockaccel.errors import LoaderEnded, SockaccelError
from sockaccel.kernel import handover, loader, offsets, sources, watched

_NO_MEMORY = (b'MemoryError', b'bad_alloc', b'out of memory', b'Cannot allocate memory')


@dataclass(frozen=True)
class Digests:
    """layout: of all that decides how the maps look. code: of all that decides how the programs look."""

    layout: str
    code: str


def digests(maximum_connections: int, source: Path | None = None) -> Digests:
    """Of what the loader would make now. source: the directory of the BPF sources.

    The kernel's types are not in it: kernel objects do not outlive the kernel.
    """
    source = source or sources.directory()
    shape = hashlib.sha256(repr(sorted(loader.map_defines(maximum_connections).items())).encode())
    shape.update(sources.layout_text(source).encode())
    code = hashlib.sha256(shape.digest() + repr(os.uname()).encode())
    python = [Path(str(module.__file__)) for module in (loader, offsets, sources, watched)]
    for path in (*sorted(source.rglob('*.[ch]')), *python):
        code.update(path.read_bytes())
    return Digests(shape.hexdigest()[:16], code.hexdigest()[:16])


async def load(maximum_connections: int, maps: Mapping[str, int] | None = None) -> dict[str, int]:
    """Compile and load in a child process. Returns the fds of programs and maps by name.

    maps: those of an earlier process; only programs are made then, and returned. Of the watchers only those are
    there that the kernel takes.

    Raises UnsupportedKernel, KernelRefused, MissingDependency or LoaderEnded. What the compiler and the verifier
    printed is in the exception's __notes__.
    """
    maps = maps or {}
    ours, theirs = handover.channel()
    with ours:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *child.command(
                    'sockaccel.kernel.loader', str(theirs.fileno()), str(maximum_connections), json.dumps(maps)
                ),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE, pass_fds=(theirs.fileno(), *maps.values()),
                cwd=child.DIRECTORY, env={**os.environ, 'BCC_KERNEL_SOURCE': str(sources.directory())},
            )  # fmt: skip
        _stdout, said = await process.communicate()
        # The child has ended: its answer is there now, or it never answers.
        try:
            return handover.receive(ours)
        except EOFError:
            error: SockaccelError = LoaderEnded(_how_it_ended(process.returncode or 0, said))
        except SockaccelError as exc:
            error = exc
    words = said.decode(errors='replace').strip()
    if words:
        error.add_note(words)
    raise error


def _how_it_ended(status: int, said: bytes) -> str:
    """said: what it printed; LLVM, libstdc++ and Python say that there is no memory before they end."""
    if status == -signal.SIGKILL:
        return f'the BPF loader was killed, as the kernel does for lack of memory: {loader.ENOUGH_MEMORY}'
    if any(words in said for words in _NO_MEMORY):
        return f'the BPF loader has found no memory: {loader.ENOUGH_MEMORY}'
    return f'the BPF loader ended with status {status} and no answer'
