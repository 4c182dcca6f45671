# SPDX-License-Identifier: GPL-2.0-or-later
"""Remembers in files which targets are enabled, and which slots of the kernel's maps they have."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from sockaccel.core.desired import Desired, Slot
from sockaccel.core.limits import MAX_TARGETS
from sockaccel.core.lock import lock
from sockaccel.core.policies import Settings
from sockaccel.errors import StateNotSaved

log = structlog.stdlib.get_logger()

_LASTING, _RUNTIME = 'targets.json', 'runtime.json'
VERSION = 2
# No file of ours is larger: there are 127 targets. A name has at most PATH_MAX characters, and a policy 64 ports,
# addresses and users.
_LARGEST = 4 << 20
_HINTS = {
    'targets': 'Ignoring them: enable them again with sockaccelctl',
    'programs': 'Ignoring them: they are seen again',
}


class StateFiles:
    """Implements sockaccel.core.protocols.Memory. `lasting` is a directory that outlives a reboot, `runtime` not.

    A new file is written beside the old one and then takes its place, so that a crash leaves one of the two whole.
    """

    def __init__(self, lasting: Path, runtime: Path) -> None:
        self._lasting = lasting / _LASTING
        self._runtime = runtime / _RUNTIME
        self._written: dict[Path, str] = {}
        self._fd = -1

    def lock(self) -> None:
        """Keep other daemons from this state until `close`. Raises AlreadyRunning."""
        directory = self._lasting.parent
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            log.warning(f'No target can be remembered in "{directory}" ({exc.strerror}), ignoring')
            return
        lock(self._fd, directory)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self) -> Desired:
        """What was written last. A damaged file is renamed, and counts as empty."""
        desired = Desired()
        read(self._lasting, 'targets', lambda content: desired.lasting.update(_chosen(content['targets'])))
        read(self._runtime, 'targets', lambda content: _read_runtime(content, desired))
        return desired

    def write(self, desired: Desired) -> None:
        """Raises StateNotSaved, with the file that could not be written."""
        lasting = {'targets': [_entry(*target) for target in desired.lasting.items()]}
        runtime = {
            'targets': [_entry(*target) for target in desired.runtime.items()],
            'slots': [
                {'slot': number, 'name': slot.name, 'generation': slot.generation, 'baseline': slot.baseline}
                for number, slot in desired.slots.items()
            ],
        }
        for path, content in ((self._lasting, lasting), (self._runtime, runtime)):
            text = json.dumps({'version': VERSION, **content}, indent=1) + '\n'
            if self._written.get(path) == text:
                continue
            try:
                replace(path, text, lasting=path is self._lasting)
            except OSError as exc:
                raise StateNotSaved(
                    f'cannot remember the targets in "{path}" ({exc.strerror}): make room, or let the daemon '
                    'write there'
                ) from exc
            self._written[path] = text

    def forget_runtime(self) -> None:
        """Remove the runtime file."""
        self._runtime.unlink(missing_ok=True)
        self._written.pop(self._runtime, None)


def read(path: Path, what: str, take: Callable[[Any], object]) -> None:
    """Hand the content of a file to `take`, which may raise what a wrong content does. No file is no content.

    A damaged file is renamed, and counts as empty. what: is in it.
    """
    try:
        with path.open(encoding='utf-8') as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError('it is too long')
        content = json.loads(text)
        if content['version'] != VERSION:
            raise ValueError(f'it is of version {content["version"]}, this sockaccel knows {VERSION}')
        take(content)
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        aside = path.with_name(path.name + '.damaged')
        try:
            path.replace(aside)
            where = f'it is now "{aside}"'
        except OSError as failure:
            where = f'it cannot be renamed either ({failure.strerror})'
        log.error(f'The remembered {what} in "{path}" cannot be used ({_what(exc)}); {where}. {_HINTS[what]}')


def _what(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f'there is no {error} in it'
    return str(error)


def _entry(name: str, chosen: Settings | None) -> dict[str, Any]:
    return {'name': name, 'policy': None if chosen is None else dict(chosen)}


def _chosen(entries: Any) -> dict[str, Settings]:
    found = {
        _text(entry['name']): {_text(key): _text(text) for key, text in entry['policy'].items()}
        for entry in entries
    }
    if len(found) >= MAX_TARGETS:
        raise ValueError(f'it has more targets than there can be, {MAX_TARGETS - 1}')
    return dict(found)


def _read_runtime(content: Any, desired: Desired) -> None:
    off = {_text(entry['name']): None for entry in content['targets'] if entry['policy'] is None}
    on = _chosen(entry for entry in content['targets'] if entry['policy'] is not None)
    slots = {
        _number(entry['slot']): Slot(
            _text(entry['name']), _number(entry['generation']), tuple(map(_number, entry['baseline']))
        )
        for entry in content['slots']
    }
    desired.runtime.update({**off, **on})
    desired.slots.update(slots)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is not a text')
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f'{value!r} is not a number')
    return value


def replace(path: Path, text: str, *, lasting: bool) -> None:
    """Replace a file. lasting: so that it survives a crash of the machine. OSError; then the old one is there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(path.name + '.new')
    try:
        with open(new, 'w', encoding='utf-8', opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(text)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    if lasting:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
