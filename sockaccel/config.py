# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration: `Key=value` lines, found by the rules of the UAPI Configuration Files Specification."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sockaccel.errors import InvalidConfiguration

# First wins for the main file; drop-ins of all are read, sorted by name.
DIRECTORIES = ('/etc/sockaccel', '/run/sockaccel', '/usr/lib/sockaccel')
_MAIN = 'sockaccel.conf'
_SECTION = '[Sockaccel]'


@dataclass(frozen=True)
class Config:
    """What is in force. maximum_connections and events_per_second are limits; cgroup_root is a cgroup path."""

    accept_kernel_issues: frozenset[str] = frozenset()
    blocking_readers: bool = False
    maximum_connections: int = 32768
    events_per_second: int = 100
    log_level: str = 'info'
    cgroup_root: str | None = None
    join_delay_ms: int = 100


def _boolean(text: str) -> bool:
    if text.lower() in ('yes', 'true', 'on', '1'):
        return True
    if text.lower() in ('no', 'false', 'off', '0'):
        return False
    raise ValueError('is neither "yes" nor "no"')


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= highest:
            raise ValueError(f'is not a number from {lowest} to {highest}')
        return int(text)

    return parse


def _level(text: str) -> str:
    if text not in ('debug', 'info', 'warning', 'error'):
        raise ValueError('is none of "debug", "info", "warning", "error"')
    return text


def _path(text: str) -> str:
    if not text.startswith('/'):
        raise ValueError('is not a path')
    return text


_KEYS: dict[str, tuple[str, Callable[[str], Any]]] = {
    'AcceptKernelIssues': ('accept_kernel_issues', lambda text: frozenset(text.split())),
    'BlockingReaders': ('blocking_readers', _boolean),
    'MaximumConnections': ('maximum_connections', _number(1, 4_000_000)),
    'EventsPerSecond': ('events_per_second', _number(0, 1_000_000)),
    'LogLevel': ('log_level', _level),
    'CgroupRoot': ('cgroup_root', _path),
    'JoinDelayMs': ('join_delay_ms', _number(0, 60_000)),
}


def files(directories: tuple[str, ...] = DIRECTORIES) -> list[Path]:
    """Which files count, in the order in which they are applied. An empty file or a link to /dev/null masks."""
    found = []
    for directory in directories:
        main = Path(directory, _MAIN)
        if main.exists():
            found.append(main)
            break
    drop_ins: dict[str, Path] = {}
    for directory in directories:
        for path in Path(directory, _MAIN + '.d').glob('*.conf'):
            drop_ins.setdefault(path.name, path)
    return found + [drop_ins[name] for name in sorted(drop_ins)]


def load(paths: list[Path]) -> Config:
    """Apply files in a row. Raises InvalidConfiguration with file and line."""
    config = Config()
    for path in paths:
        try:
            text = path.read_text()
        except OSError as exc:
            raise InvalidConfiguration(f'cannot read "{path}" ({os.strerror(exc.errno or 0)})') from exc
        except UnicodeDecodeError as exc:
            raise InvalidConfiguration(f'"{path}" is not UTF-8 text') from exc
        config = _apply(config, text, path)
    return config


def _apply(config: Config, text: str, path: Path) -> Config:
    inside = False
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in '#;':
            continue
        where = f'{path}:{number}'
        if line.startswith('['):
            inside = line == _SECTION
            if not inside:
                raise InvalidConfiguration(f'{where}: section "{line}" is unknown, the only one is "{_SECTION}"')
            continue
        key, separator, value = (part.strip() for part in line.partition('='))
        if not inside or not separator:
            raise InvalidConfiguration(f'{where}: "{line}" is not a "Key=value" line in section "{_SECTION}"')
        if key not in _KEYS:
            raise InvalidConfiguration(f'{where}: key "{key}" is unknown, the keys are {", ".join(_KEYS)}')
        name, parse = _KEYS[key]
        if not value:
            # systemd.syntax(7): an empty assignment takes back what was assigned before.
            config = replace(config, **{name: getattr(Config, name)})
            continue
        try:
            config = replace(config, **{name: parse(value)})
        except ValueError as exc:
            raise InvalidConfiguration(f'{where}: {key}= "{value}" {exc}') from exc
    return config
