# SPDX-License-Identifier: GPL-2.0-or-later
"""The list of programs that an accelerated socket would hurt: programs.conf, found as the configuration is."""

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sockaccel.core import config
from sockaccel.core.knowledge import Knowledge
from sockaccel.core.limits import MAX_PROGRAM_NAMES
from sockaccel.core.target import quote
from sockaccel.errors import InvalidConfiguration

MAIN = 'programs.conf'
_SECTION = '[Programs]'
_KEYS = {'Splices': Knowledge.SPLICES, 'AsksFionread': Knowledge.ASKS_FIONREAD, 'Listens': Knowledge.LISTENS}


@dataclass(frozen=True)
class Listed:
    """name: of a process, as in /proc/PID/comm but uncut, or the path of an executable. where: file:line."""

    name: str
    knowledge: Knowledge
    where: str

    @property
    def is_path(self) -> bool:
        return self.name.startswith('/')


def files(directories: tuple[str, ...] = config.DIRECTORIES) -> list[Path]:
    """The files to read, in this order; see config.files()."""
    return config.files(directories, MAIN)


def load(paths: Iterable[Path]) -> list[Listed]:
    """Read files; later ones add to earlier ones. Raises InvalidConfiguration with file and line."""
    found: dict[tuple[str, Knowledge], Listed] = {}
    for path in paths:
        _apply(found, config.read(path), path)
    if len(found) > MAX_PROGRAM_NAMES:
        raise InvalidConfiguration(
            f'the files {MAIN} name {len(found)} programs, and there can be {MAX_PROGRAM_NAMES}'
        )
    return list(found.values())


def _apply(found: dict[tuple[str, Knowledge], Listed], text: str, path: Path) -> None:
    inside = False
    for number, raw in enumerate(text.split('\n'), 1):
        line = raw.strip()
        if not line or line[0] in '#;':
            continue
        where = f'{path}:{number}'
        if line.startswith('['):
            inside = line == _SECTION
            if not inside:
                raise InvalidConfiguration(
                    f'{where}: section {quote(line)} is unknown, the only one is "{_SECTION}"'
                )
            continue
        key, separator, value = (part.strip() for part in line.partition('='))
        if not inside or not separator:
            raise InvalidConfiguration(f'{where}: {quote(line)} is not a "Key=value" line in section "{_SECTION}"')
        if key not in _KEYS:
            raise InvalidConfiguration(f'{where}: key {quote(key)} is unknown, the keys are {", ".join(_KEYS)}')
        knowledge = _KEYS[key]
        if not value:
            for earlier in [each for each in found if each[1] is knowledge]:
                del found[earlier]
        for name in _names(value, f'{where}: {key}='):
            found.setdefault((name, knowledge), Listed(name, knowledge, where))


def _names(value: str, where: str) -> list[str]:
    """The words of a value; quotes keep spaces in one (shlex). Raises InvalidConfiguration."""
    try:
        names = shlex.split(value)
    except ValueError as exc:
        raise InvalidConfiguration(f'{where} {quote(value)}: {exc}') from exc
    for name in names:
        if not name.isprintable() or ('/' in name and os.path.normpath(name) != name) or name in ('', '.', '..'):
            raise InvalidConfiguration(
                f'{where} {quote(name)} is neither the name of a process nor the path of an executable'
            )
        if '/' in name and not name.startswith('/'):
            raise InvalidConfiguration(f'{where} {quote(name)} is a path that does not begin with "/"')
    return names
