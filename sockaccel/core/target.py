# SPDX-License-Identifier: GPL-2.0-or-later
"""What an administrator names: a systemd unit, a cgroup path, or `*` for every local connection."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Self

from sockaccel.errors import InvalidTarget

EVERYTHING = '*'
# UNIT_NAME_MAX of systemd, PATH_MAX of the kernel.
_UNIT_NAME_MAX, _PATH_MAX = 255, 4096
# The unit types that have a cgroup (systemd.unit(5), systemd.resource-control(5)).
UNIT_SUFFIXES = ('.service', '.slice', '.scope', '.socket', '.mount', '.swap')
_UNIT_CHARACTERS = re.compile(r'[A-Za-z0-9:_.\\@-]+', re.ASCII)


class Kind(Enum):
    EVERYTHING = 'everything'
    UNIT = 'unit'
    PATH = 'path'


@dataclass(frozen=True)
class Target:
    """A valid name; whether anything of that name exists is another question."""

    name: str
    kind: Kind

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidTarget, naming the text and what is wrong with it."""
        if text == EVERYTHING:
            return cls(text, Kind.EVERYTHING)
        if not text:
            raise InvalidTarget('a target "" is empty: name a unit, a cgroup path, or "*"')
        if '\0' in text or not text.isprintable():
            raise InvalidTarget(f'target {quote(text)} has characters that no unit or cgroup name has')
        if text.startswith('/'):
            return cls(_normal_path(text), Kind.PATH)
        if not text.endswith(UNIT_SUFFIXES) or not _UNIT_CHARACTERS.fullmatch(text):
            raise InvalidTarget(
                f'target {quote(text)} is neither a unit name such as "postgresql.service", nor a cgroup path '
                'such as "/system.slice/postgresql.service", nor "*"'
            )
        if len(text) > _UNIT_NAME_MAX:
            raise InvalidTarget(
                f'target {quote(text)} is longer than a unit name can be ({_UNIT_NAME_MAX} characters)'
            )
        return cls(text, Kind.UNIT)


class State(Enum):
    ACTIVE = 'active'
    WAITING = 'waiting'
    REFUSED = 'refused'
    DRAINING = 'draining'
    PROBATION = 'probation'


@dataclass(frozen=True)
class TargetStatus:
    """A target as users see it. detail: its cgroup, what it waits for, or why it was refused.

    cgroup: its path, '' if it has none now. runtime: it lasts until the daemon is stopped. file: file:line of the
    section that enables it, '' if there is none. policy: rows as Policy.rows() has them; none where it is not
    known. draining: how many sockets hold unread bytes, of one that is disabled.
    """

    name: str
    state: State
    detail: str
    cgroup: str = ''
    runtime: bool = False
    file: str = ''
    policy: tuple[tuple[str, str, str], ...] = ()
    draining: int = 0


def quote(text: str) -> str:
    """A user's text for a message: in quotes, unprintable characters escaped, cut where it is very long."""
    shown = text if text.isprintable() else text.encode('unicode_escape').decode()
    return f'"{shown}"' if len(shown) <= 80 else f'"{shown[:80]}…" ({len(text)} characters)'


def _normal_path(text: str) -> str:
    parts = [part for part in text.split('/') if part]
    if any(part in ('.', '..') for part in parts):
        raise InvalidTarget(f'target {quote(text)} has "." or ".." in it: name the cgroup itself')
    if len(text) >= _PATH_MAX or any(len(part.encode()) > 255 for part in parts):
        raise InvalidTarget(f'target {quote(text)} is longer than a cgroup path can be')
    return '/' + '/'.join(parts)
