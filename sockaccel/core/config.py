# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration: `Key=value` lines, found by the rules of the UAPI Configuration Files Specification."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from sockaccel.core.limits import MAX_RULES
from sockaccel.core.rules import Rule, addresses, ports, users
from sockaccel.core.target import quote
from sockaccel.errors import InvalidConfiguration

# First wins for the main file; drop-ins of all are read, sorted by name.
DIRECTORIES = ('/etc/sockaccel', '/run/sockaccel', '/usr/lib/sockaccel')
_MAIN = 'sockaccel.conf'
_SECTION = '[Sockaccel]'


@dataclass(frozen=True)
class Config:
    """The settings. maximum_connections and events_per_second are limits; cgroup_root is a cgroup path.

    sources: where each key was assigned, as file:line; for a list all places.
    """

    accept_kernel_issues: frozenset[str] = frozenset()
    blocking_readers: bool = False
    include_ports: tuple[Rule, ...] = ()
    exclude_ports: tuple[Rule, ...] = ()
    include_addresses: tuple[Rule, ...] = ()
    exclude_addresses: tuple[Rule, ...] = ()
    include_users: tuple[Rule, ...] = ()
    exclude_users: tuple[Rule, ...] = ()
    maximum_connections: int = 32768
    events_per_second: int = 100
    log_level: str = 'info'
    cgroup_root: str | None = None
    join_delay_ms: int = 100
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)

    @property
    def rules(self) -> tuple[Rule, ...]:
        return (
            *self.include_ports, *self.exclude_ports, *self.include_addresses, *self.exclude_addresses,
            *self.include_users, *self.exclude_users,
        )  # fmt: skip

    def rows(self) -> list[tuple[str, str, str]]:
        """Each key, its value as a file would have it, and where it was assigned, '' for the default."""
        return [
            (key, _text(getattr(self, name)), ', '.join(self.sources.get(key, ())))
            for key, (name, _parse) in _KEYS.items()
        ]


def _text(value: Any) -> str:
    if value is None:
        return ''
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, frozenset):
        return ' '.join(sorted(value))
    if isinstance(value, tuple):
        return ' '.join(rule.text for rule in value)
    return str(value)


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
    'IncludePorts': ('include_ports', partial(ports, exclude=False)),
    'ExcludePorts': ('exclude_ports', partial(ports, exclude=True)),
    'IncludeAddresses': ('include_addresses', partial(addresses, exclude=False)),
    'ExcludeAddresses': ('exclude_addresses', partial(addresses, exclude=True)),
    'IncludeUsers': ('include_users', partial(users, exclude=False)),
    'ExcludeUsers': ('exclude_users', partial(users, exclude=True)),
    'MaximumConnections': ('maximum_connections', _number(1, 4_000_000)),
    'EventsPerSecond': ('events_per_second', _number(0, 1_000_000)),
    'LogLevel': ('log_level', _level),
    'CgroupRoot': ('cgroup_root', _path),
    'JoinDelayMs': ('join_delay_ms', _number(0, 60_000)),
}


def files(directories: tuple[str, ...] = DIRECTORIES) -> list[Path]:
    """The files to read, in this order. An empty one, or a link to /dev/null, hides later ones of its name."""
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
    """Read files; later ones override. Raises InvalidConfiguration with file and line."""
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
        try:
            config = _assign(config, key, value, where)
        except ValueError as exc:
            raise InvalidConfiguration(f'{where}: {key}= {quote(value)} {exc}') from exc
    return config


def _assign(config: Config, key: str, value: str, where: str) -> Config:
    """Lists grow with each assignment, an empty one brings the default back (systemd.syntax(7)).

    Raises ValueError, whose text continues a sentence that begins with the value.
    """
    name, parse = _KEYS[key]
    sources = {**config.sources}
    if not value:
        sources.pop(key, None)
        return replace(config, **{name: getattr(_DEFAULTS, name)}, sources=sources)
    parsed, before = parse(value), getattr(config, name)
    if isinstance(before, frozenset):
        parsed |= before
    elif isinstance(before, tuple):
        parsed = before + parsed
    is_list = isinstance(before, frozenset | tuple)
    sources[key] = (*sources.get(key, ()), where) if is_list else (where,)
    config = replace(config, **{name: parsed}, sources=sources)
    if len(config.rules) > MAX_RULES:
        raise ValueError(f'is one too many: there can be {MAX_RULES} ports, addresses and users in all')
    return config


_DEFAULTS = Config()
