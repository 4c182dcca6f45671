# SPDX-License-Identifier: GPL-2.0-or-later
"""The keys of the configuration: for each the field that it sets, and what its values are."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sockaccel.core.rules import addresses, ports, users
from sockaccel.core.target import quote


@dataclass(frozen=True)
class Key:
    """A key of section [Sockaccel] alone.

    field: of Config. parse: what a text means, which is not empty; it raises ValueError with what is wrong, in
    words that follow the text.
    """

    field: str
    parse: Callable[[str], Any]


@dataclass(frozen=True)
class PolicyKey(Key):
    """A key of every target, whose value in section [Sockaccel] is the default of all targets.

    field: of Policy. type: of the value on D-Bus. flag: of "sockaccelctl enable". says: what the flag means, ''
    where a value follows it. meaning: a line for --help. adds: whether a target's list adds to the default instead
    of replacing it.
    """

    type: str
    flag: str
    says: str
    meaning: str
    adds: bool = False


def text_of(value: Any) -> str:
    """A value as a file would have it."""
    if value is None:
        return ''
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, frozenset):
        return ' '.join(sorted(value))
    if isinstance(value, tuple):
        return ' '.join(rule.text for rule in value)
    return str(value)


def is_list(value: Any) -> bool:
    """Whether values of this type grow with each assignment."""
    return isinstance(value, frozenset | tuple)


def _boolean(text: str) -> bool:
    if text.lower() in ('yes', 'true', 'on', '1'):
        return True
    if text.lower() in ('no', 'false', 'off', '0'):
        return False
    raise ValueError('is neither "yes" nor "no"')


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 20 or not lowest <= int(text) <= highest:
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


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What a target has of its own.
POLICY_KEYS = {
    'AcceptKernelIssues': PolicyKey(
        'accepted_issues', _names, 'as', '--accept', '',
        'enable it in spite of a kernel issue that doctor names', adds=True,
    ),
    'BlockingReaders': PolicyKey(
        'blocking_readers', _boolean, 'b', '--blocking-readers', 'yes',
        'also connections of programs that read in blocking mode',
    ),
    'OtherNamespaces': PolicyKey(
        'other_namespaces', _boolean, 'b', '--other-namespaces', 'yes',
        'also connections between its own programs in different network namespaces',
    ),
    'HeartbeatSeconds': PolicyKey(
        'heartbeat_seconds', _number(1, 3600), 'u', '--heartbeat-seconds', '',
        'how long what lies between two programs may see nothing of a connection',
    ),
    'AdoptConnections': PolicyKey(
        'adopt_connections', _boolean, 'b', '--new-only', 'no',
        'no connection that is there already',
    ),
    'IncludePorts': PolicyKey(
        'include_ports', partial(ports, exclude=False), 'as', '--include-port', '',
        'only connections to this port, or to a range such as 8000-8999',
    ),
    'ExcludePorts': PolicyKey(
        'exclude_ports', partial(ports, exclude=True), 'as', '--exclude-port', '',
        'no connection to this port, or to a range of them',
    ),
    'IncludeAddresses': PolicyKey(
        'include_addresses', partial(addresses, exclude=False), 'as', '--include-address', '',
        'only connections to this address, or to a range such as 127.0.0.0/8',
    ),
    'ExcludeAddresses': PolicyKey(
        'exclude_addresses', partial(addresses, exclude=True), 'as', '--exclude-address', '',
        'no connection to this address, or to a range of them',
    ),
    'IncludeUsers': PolicyKey(
        'include_users', partial(users, exclude=False), 'as', '--include-user', '',
        'only connections that this user makes, or a range of uids such as 1000-1999',
    ),
    'ExcludeUsers': PolicyKey(
        'exclude_users', partial(users, exclude=True), 'as', '--exclude-user', '',
        'no connection that this user makes, or a range of uids',
    ),
    'JoinDelayMs': PolicyKey(
        'join_delay_ms', _number(0, 60_000), 'u', '--join-delay-ms', '',
        'the age in milliseconds at which a connection may be accelerated',
    ),
}  # fmt: skip

# What the daemon has once.
DAEMON_KEYS = {
    'MaximumConnections': Key('maximum_connections', _number(1, 4_000_000)),
    'RememberPrograms': Key('remember_programs', _boolean),
    'EventsPerSecond': Key('events_per_second', _number(0, 1_000_000)),
    'LogLevel': Key('log_level', _level),
    'CgroupRoot': Key('cgroup_root', _path),
}

KEYS: dict[str, Key] = {**POLICY_KEYS, **DAEMON_KEYS}


def policy_key(name: str) -> PolicyKey:
    """Raises ValueError for what is no key of a target."""
    if name in DAEMON_KEYS:
        raise ValueError(f'key {quote(name)} is one of section "[Sockaccel]", and of no target')
    if name not in POLICY_KEYS:
        raise ValueError(f'key {quote(name)} is unknown, the keys of a target are {", ".join(POLICY_KEYS)}')
    return POLICY_KEYS[name]


def parse(name: str, key: Key, text: str) -> Any:
    """What a text that is not empty means as the value of a key. Raises ValueError with a sentence."""
    try:
        return key.parse(text)
    except ValueError as exc:
        raise ValueError(f'{name}= {quote(text)} {exc}') from exc
