# SPDX-License-Identifier: GPL-2.0-or-later
"""Remembers in a file what watchers have seen programs do."""

import json
from pathlib import Path
from typing import Any

import structlog

from sockaccel.core.knowledge import Knowledge
from sockaccel.core.limits import MAX_PROGRAMS
from sockaccel.core.programs import Executable, Seen
from sockaccel.core.words import KNOWLEDGE
from sockaccel.errors import StateNotSaved
from sockaccel.systemd import statefiles

log = structlog.stdlib.get_logger()

_NAME = 'programs.json'


class ProgramFile:
    """Implements sockaccel.core.programs.Memory. directory: one that outlives a reboot."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME
        self._written = ''

    def read(self) -> list[Seen]:
        """What was written last. A damaged file is renamed, and counts as empty."""
        found: list[Seen] = []
        statefiles.read(self._path, 'programs', lambda content: found.extend(map(_seen, content['programs'])))
        return found[:MAX_PROGRAMS]

    def write(self, programs: list[Seen]) -> None:
        """Raises StateNotSaved, with the file that could not be written."""
        content = {'version': statefiles.VERSION, 'programs': list(map(_entry, programs))}
        text = json.dumps(content, indent=1) + '\n'
        if self._written == text:
            return
        try:
            statefiles.replace(self._path, text, lasting=True)
        except OSError as exc:
            raise StateNotSaved(
                f'cannot remember programs in "{self._path}" ({exc.strerror}): make room, or let the daemon write '
                'there'
            ) from exc
        self._written = text


def _entry(seen: Seen) -> dict[str, Any]:
    return {
        'path': seen.path,
        'device': seen.executable.device,
        'inode': seen.executable.inode,
        'knows': [word for knowledge, word in KNOWLEDGE.items() if knowledge in seen.knowledge],
        'since': seen.since,
    }


def _seen(entry: Any) -> Seen:
    """Raises ValueError, KeyError."""
    words = {word: knowledge for knowledge, word in KNOWLEDGE.items()}
    knowledge = Knowledge(0)
    for word in entry['knows']:
        knowledge |= words[word]
    numbers = device, inode, since = entry['device'], entry['inode'], entry['since']
    if not isinstance(entry['path'], str) or not all(isinstance(each, int) and each >= 0 for each in numbers):
        raise ValueError(f'{entry!r} is no program')
    return Seen(Executable(device, inode), entry['path'], knowledge, since)
