# SPDX-License-Identifier: GPL-2.0-or-later
"""Remembers in a file which targets are led to which proxies."""

import json
from pathlib import Path
from typing import Any

import structlog

from sockaccel.core.led import Entry
from sockaccel.core.limits import MAX_INTERCEPTIONS
from sockaccel.errors import SockaccelError, StateNotSaved
from sockaccel.systemd import statefiles

log = structlog.stdlib.get_logger()

_NAME = 'interceptions.json'
_VERSION = 1
# There are 32 at most, with 64 exceptions and two paths each.
_LARGEST = 1 << 20


class LeadFile:
    """Implements sockaccel.core.led.Memory. directory: one that outlives a reboot."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME

    def read(self) -> list[Entry]:
        """What was written last. A damaged file is renamed, and counts as empty."""
        try:
            with self._path.open(encoding='utf-8') as file:
                text = file.read(_LARGEST + 1)
            if len(text) > _LARGEST:
                raise ValueError('it is too long')
            content = json.loads(text)
            if content['version'] != _VERSION:
                raise ValueError(f'it is of version {content["version"]}, this sockaccel knows {_VERSION}')
            return _unique([Entry.from_json(entry) for entry in content['interceptions']])
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, SockaccelError) as exc:
            aside = self._path.with_name(f'{_NAME}.damaged')
            try:
                self._path.replace(aside)
                where = f'it is now "{aside}"'
            except OSError as failure:
                where = f'it cannot be renamed either ({failure.strerror})'
            log.error(
                f'"{self._path}" says what is led to proxies, and cannot be used ({exc}); {where}. Ignoring it: '
                'nothing is led until "sockaccelctl intercept" says so again'
            )
            return []

    def write(self, entries: list[dict[str, Any]]) -> None:
        """Raises StateNotSaved, with the file that could not be written."""
        text = json.dumps({'version': _VERSION, 'interceptions': entries}, indent=1) + '\n'
        try:
            if entries or self._path.exists():
                statefiles.replace(self._path, text, lasting=True)
        except OSError as exc:
            raise StateNotSaved(
                f'cannot remember what is led to proxies in "{self._path}" ({exc.strerror}): make room, or let '
                'the daemon write there'
            ) from exc


def _unique(entries: list[Entry]) -> list[Entry]:
    if len(entries) >= MAX_INTERCEPTIONS:
        raise ValueError(f'it has more than {MAX_INTERCEPTIONS - 1} targets')
    if len({entry.slot for entry in entries}) < len(entries):
        raise ValueError('two targets have the same slot')
    return entries
