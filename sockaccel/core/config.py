# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration: `Key=value` lines, found by the rules of the UAPI Configuration Files Specification."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sockaccel.core import led_keys
from sockaccel.core.keys import DAEMON_KEYS, KEYS, POLICY_KEYS, parse, text_of
from sockaccel.core.led_keys import LED_KEYS, Led
from sockaccel.core.policies import Policies, Section
from sockaccel.core.policy import DEFAULTS
from sockaccel.core.target import Target, quote
from sockaccel.errors import InvalidArgument, InvalidConfiguration, InvalidTarget

# First wins for the main file; drop-ins of all are read, sorted by name.
DIRECTORIES = ('/etc/sockaccel', '/run/sockaccel', '/usr/lib/sockaccel')
_MAIN = 'sockaccel.conf'
_SECTION, _OF_TARGET = 'Sockaccel', 'Target '


@dataclass(frozen=True)
class Config:
    """The settings. maximum_connections and events_per_second are limits; cgroup_root is a cgroup path.
    remember_programs: whether what a program was seen to do keeps out the next connections of its executable.

    policies: the defaults of all targets, and the targets that the files enable. sources: where each other key was
    assigned, as file:line.
    """

    maximum_connections: int = 32768
    events_per_second: int = 100
    remember_programs: bool = True
    log_level: str = 'info'
    cgroup_root: str | None = None
    policies: Policies = field(default_factory=Policies)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """A section, a key, its value as a file would have it, and where it was assigned, '' for the default.

        All keys of [Sockaccel], and those of targets that were assigned. A section that assigns none has a row
        whose key and value are ''.
        """
        defaults = self.policies.defaults.on(DEFAULTS)
        rows = [(_SECTION, *row) for row in defaults.rows()]
        for name, key in DAEMON_KEYS.items():
            rows.append((_SECTION, name, text_of(getattr(self, key.field)), self.sources.get(name, '')))
        for target, section in self.policies.sections.items():
            heading, own = _OF_TARGET + target, section.layer
            given = [name for name in POLICY_KEYS if name in own.values]
            rows += [(heading, name, text_of(own.values[name]), ', '.join(own.sources[name])) for name in given]
            rows += [(heading, name, value.text, ', '.join(value.sources)) for name, value in section.led.items()]
            if not given and not section.led:
                rows.append((heading, '', '', section.source))
        return rows

    def led(self) -> dict[str, Led]:
        """What the files lead to proxies, by target. Raises InvalidArgument."""
        found = {name: led_keys.led(name, section.led) for name, section in self.policies.sections.items()}
        return {name: led for name, led in found.items() if led}


def files(directories: tuple[str, ...] = DIRECTORIES, name: str = _MAIN) -> list[Path]:
    """The files to read, in this order. name: of the main file.

    An empty one, or a link to /dev/null, hides later ones of its name.
    """
    found = []
    for directory in directories:
        main = Path(directory, name)
        if main.exists():
            found.append(main)
            break
    drop_ins: dict[str, Path] = {}
    for directory in directories:
        for path in Path(directory, name + '.d').glob('*.conf'):
            drop_ins.setdefault(path.name, path)
    return found + [drop_ins[name] for name in sorted(drop_ins)]


def read(path: Path) -> str:
    """The text of one of the files. Raises InvalidConfiguration."""
    try:
        return path.read_text()
    except OSError as exc:
        raise InvalidConfiguration(f'cannot read "{path}" ({os.strerror(exc.errno or 0)})') from exc
    except UnicodeDecodeError as exc:
        raise InvalidConfiguration(f'"{path}" is not UTF-8 text') from exc


def load(paths: list[Path]) -> Config:
    """Read files; later ones override. Raises InvalidConfiguration with file and line."""
    config = Config()
    for path in paths:
        config = _apply(config, read(path), path)
    for name, section in config.policies.sections.items():
        try:
            config.policies.of(name, {})
        except InvalidArgument as exc:
            raise InvalidConfiguration(f'{section.source}: {exc}') from exc
    try:
        config.led()
    except InvalidArgument as exc:
        raise InvalidConfiguration(str(exc)) from exc
    return config


def _apply(config: Config, text: str, path: Path) -> Config:
    section = ''
    for number, raw in enumerate(text.split('\n'), 1):
        line = raw.strip()
        if not line or line[0] in '#;':
            continue
        where = f'{path}:{number}'
        try:
            if line.startswith('['):
                section, config = _enter(config, line, where)
            else:
                config = _assign(config, section, line, where)
        except (ValueError, InvalidTarget) as exc:
            raise InvalidConfiguration(f'{where}: {exc}') from exc
    return config


def _enter(config: Config, line: str, where: str) -> tuple[str, Config]:
    """Begin a section; returns its heading. Raises ValueError, InvalidTarget."""
    heading = line[1:-1].strip() if line.endswith(']') else ''
    if heading == _SECTION:
        return heading, config
    if not heading.startswith(_OF_TARGET):
        raise ValueError(f'section {quote(line)} is unknown, there is "[{_SECTION}]" and "[Target NAME]"')
    name = Target.parse(heading.removeprefix(_OF_TARGET).strip()).name
    sections = {**config.policies.sections}
    sections.setdefault(name, Section(where))
    return _OF_TARGET + name, replace(config, policies=replace(config.policies, sections=sections))


def _assign(config: Config, section: str, line: str, where: str) -> Config:
    """Raises ValueError with a sentence."""
    name, separator, value = (part.strip() for part in line.partition('='))
    if not section or not separator:
        raise ValueError(f'{quote(line)} is not a "Key=value" line in section "[{_SECTION}]" or "[Target NAME]"')
    policies = config.policies
    if section != _SECTION:
        target = section.removeprefix(_OF_TARGET)
        known = policies.sections[target]
        if name in LED_KEYS:
            known = replace(known, led=led_keys.assigned(known.led, name, value, where))
        else:
            known = replace(known, layer=known.layer.assigned(name, value, where))
        return replace(config, policies=replace(policies, sections={**policies.sections, target: known}))
    if name in LED_KEYS:
        raise ValueError(f'key {quote(name)} is one of sections "[Target NAME]"')
    if name in POLICY_KEYS:
        return replace(config, policies=replace(policies, defaults=policies.defaults.assigned(name, value, where)))
    if name not in DAEMON_KEYS:
        raise ValueError(f'key {quote(name)} is unknown, the keys are {", ".join(KEYS)}')
    field_name = DAEMON_KEYS[name].field
    sources = {key: source for key, source in config.sources.items() if key != name}
    if not value:
        return replace(config, **{field_name: getattr(_UNCONFIGURED, field_name)}, sources=sources)
    parsed = parse(name, DAEMON_KEYS[name], value)
    return replace(config, **{field_name: parsed}, sources={**sources, name: where})


_UNCONFIGURED = Config()
