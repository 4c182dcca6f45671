# SPDX-License-Identifier: GPL-2.0-or-later
"""The BPF sources: where they are, and what of them decides how the maps look.

What is imported here delays each cold start.
"""

import re
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

# Declares every map. Below the directory of the sources.
MAPS = 'lib/maps.c'
_INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)
_COMMENT = re.compile(r'/\*.*?\*/', re.DOTALL)
# A line of the list of counters (bpf/abi/counters.h).
_COUNTER = re.compile(r'(X\(\w+, \w+), "[^"]*"\)')


def directory() -> Path:
    """Where the BPF sources are: beside the package in a checkout, under share/ when installed.

    Raises FileNotFoundError.
    """
    checkout = Path(__file__).resolve().parents[2] / 'bpf'
    if checkout.is_dir():
        return checkout
    for prefix in (sysconfig.get_path('data'), sys.prefix, '/usr'):
        installed = Path(prefix) / 'share' / 'sockaccel' / 'bpf'
        if installed.is_dir():
            return installed
    raise FileNotFoundError('the BPF sources of sockaccel are not installed: reinstall the package')


def text(names: Iterable[str], source: Path) -> str:
    """Sources of the directory `source` one after the other: BCC rewrites map accesses only in the main file."""
    return ''.join(f'#line 1 "{name}"\n{(source / name).read_text()}' for name in names)


def layout_text(source: Path, maps: str = MAPS) -> str:
    """The source that declares the maps and all that it includes, without comments and the counters' sentences.

    Nothing else can shape a map but the values of -D options (loader.map_defines()).
    """
    found: list[str] = []
    _collect(source / maps, source, set(), found)
    return re.sub(r'\s+', ' ', _COUNTER.sub(r'\1)', _COMMENT.sub(' ', '\n'.join(found))))


def _collect(path: Path, source: Path, seen: set[Path], found: list[str]) -> None:
    """The text of a file behind those of the files that it includes, each once."""
    if path in seen:
        return
    seen.add(path)
    content = path.read_text()
    for name in _INCLUDE.findall(content):
        beside = path.parent / name
        _collect(beside if beside.exists() else source / name, source, seen, found)
    found.append(content)
