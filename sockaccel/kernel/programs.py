# SPDX-License-Identifier: GPL-2.0-or-later
"""The BPF programs and maps as the daemon gets them: from the loader, a child process, as fds."""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sockaccel.errors import KernelRefused, SockaccelError
from sockaccel.kernel import handover, loader, offsets, sources


@dataclass(frozen=True)
class Digests:
    """layout: of all that the contents of the maps depend on. code: of all that the programs depend on."""

    layout: str
    code: str


def digests(maximum_connections: int, source: Path | None = None) -> Digests:
    """What the loader would load now. source: where the BPF sources are.

    Kernel objects end with the kernel, so its types need not be looked at.
    """
    source = source or sources.directory()
    shape = hashlib.sha256(repr(sorted(loader.map_defines(maximum_connections).items())).encode())
    shape.update(sources.layout_text(source).encode())
    code = hashlib.sha256(shape.digest() + repr(os.uname()).encode())
    python = [Path(str(module.__file__)) for module in (loader, offsets, sources)]
    for path in (*sorted(source.rglob('*.[ch]')), *python):
        code.update(path.read_bytes())
    return Digests(shape.hexdigest()[:16], code.hexdigest()[:16])


async def load(maximum_connections: int, maps: Mapping[str, int] | None = None) -> dict[str, int]:
    """Compile and load everything in a child process; returns name -> fd for programs and maps.

    maps: those of an earlier process, for which only programs are made.

    Raises UnsupportedKernel or KernelRefused with a sentence; the compiler's and the verifier's own words are
    the exception's __notes__.
    """
    maps = maps or {}
    ours, theirs = handover.channel()
    with ours:
        with theirs:
            child = await asyncio.create_subprocess_exec(
                sys.executable, '-m', 'sockaccel.kernel.loader', str(theirs.fileno()), str(maximum_connections),
                json.dumps(maps),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE, pass_fds=(theirs.fileno(), *maps.values()),
                env=_environment(),
            )  # fmt: skip
        _stdout, said = await child.communicate()
        # The child has ended: the answer is there, or never comes.
        try:
            return handover.receive(ours)
        except EOFError:
            error: SockaccelError = KernelRefused(
                f'the BPF loader ended with status {child.returncode} and no answer'
            )
        except SockaccelError as exc:
            error = exc
    words = said.decode(errors='replace').strip()
    if words:
        error.add_note(words)
    raise error


def _environment() -> Mapping[str, str]:
    package = str(Path(__file__).resolve().parents[2])
    path = os.environ.get('PYTHONPATH')
    return {
        **os.environ,
        'BCC_KERNEL_SOURCE': str(sources.directory()),
        'PYTHONPATH': f'{package}:{path}' if path else package,
    }
