# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of org.sockaccel1, which are dictionaries so that a later version can have more keys; and its options."""

from collections.abc import Iterable, Mapping
from typing import Any

from sockaccel.core import words
from sockaccel.core.advice import ADVICE
from sockaccel.core.connection import Counter, Event
from sockaccel.core.finding import Finding
from sockaccel.core.keys import POLICY_KEYS, text_of
from sockaccel.core.listing import Connection
from sockaccel.core.target import TargetStatus, quote
from sockaccel.dbus.message import Variant
from sockaccel.errors import InvalidArgument

# a{sv}
Row = dict[str, Variant]


def target(status: TargetStatus) -> Row:
    return _row(
        name=('s', status.name),
        state=('s', words.TARGET_STATES[status.state]),
        detail=('s', status.detail),
        cgroup=('s', status.cgroup),
        runtime=('b', status.runtime),
        file=('s', status.file),
        policy=('aa{sv}', [_value(*row) for row in status.policy]),
        draining=('u', status.draining),
    )


def no_target(name: str) -> Row:
    """The row of what was a target, with the same keys."""
    return _row(
        name=('s', name),
        state=('s', words.DISABLED),
        detail=('s', ''),
        cgroup=('s', ''),
        runtime=('b', False),
        file=('s', ''),
        policy=('aa{sv}', []),
        draining=('u', 0),
    )


def finding(found: Finding) -> Row:
    return _row(name=('s', found.name), severity=('s', found.severity), sentence=('s', found.sentence))


def counter(counted: Counter) -> Row:
    return _row(
        name=('s', counted.name),
        kind=('s', counted.kind),
        sentence=('s', counted.sentence),
        advice=('s', ADVICE.get(counted.name, '')),
    )


def setting(section: str, key: str, value: str, source: str) -> Row:
    return _row(section=('s', section)) | _value(key, value, source)


def _value(key: str, value: str, source: str) -> Row:
    return _row(key=('s', key), value=('s', value), source=('s', source))


def connection(found: Connection, *, programs: bool) -> Row:
    """programs: whether the one who asks may know whose it is; otherwise these keys are as if it were unknown."""
    client, server = found.client, found.server
    one = client or server
    assert one
    flow = one.flow
    here = ((flow.local, flow.local_port), (flow.remote, flow.remote_port))
    of_client, of_server = here if client else here[::-1]
    return (
        _row(
            target=('s', found.target),
            path=('s', found.path),
            state=('s', words.CONNECTION_STATES[found.state]),
            age_ns=('t', found.age_ns),
            netns_cookie=('t', flow.netns),
        )
        | _end('client', client, of_client, found.client_reason, found.client_cgroup, programs=programs)
        | _end('server', server, of_server, found.server_reason, found.server_cgroup, programs=programs)
    )


def _end(
    name: str, end: Event | None, endpoint: tuple[str, int], reason: str, cgroup: str, *, programs: bool
) -> Row:
    """The keys of one end. end: None where it is not known, or gone already; the other end knows its endpoint."""
    row = _row(
        address=('s', endpoint[0]),
        port=('q', endpoint[1]),
        state=('s', words.CONNECTION_STATES[end.state] if end else ''),
        cgroup=('s', cgroup if programs else ''),
        reason=('s', reason),
        program=('s', end.program if end and programs else ''),
        pid=('u', end.pid if end and programs else 0),
        redirected_bytes=('t', end.redirected_bytes if end else 0),
        redirected_messages=('t', end.redirected_messages if end else 0),
        tcp_bytes=('t', end.tcp_bytes if end else 0),
        tcp_messages=('t', end.tcp_messages if end else 0),
    )
    return {f'{name}_{key}': value for key, value in row.items()}


def event(happened: Event, target: str, reason: Counter | None, *, programs: bool) -> dict[str, Any]:
    """What a line of an event says, before it is JSON.

    target: the name of the end's target. reason: what `happened.reason` stands for. programs: see `connection()`.
    """
    return {
        'kind': words.EVENT_KINDS[happened.kind],
        'state': words.CONNECTION_STATES[happened.state],
        'target': target,
        'local': happened.flow.local,
        'local_port': happened.flow.local_port,
        'remote': happened.flow.remote,
        'remote_port': happened.flow.remote_port,
        'netns_cookie': happened.flow.netns,
        'active': happened.active,
        'program': happened.program if programs else '',
        'pid': happened.pid if programs else 0,
        'cgroup_id': happened.cgroup if programs else 0,
        'reason': reason.name if reason else '',
        'redirected_bytes': happened.redirected_bytes,
        'redirected_messages': happened.redirected_messages,
        'tcp_bytes': happened.tcp_bytes,
        'tcp_messages': happened.tcp_messages,
        'time_ns': happened.time_ns,
    }


def options(given: Mapping[str, Variant], **types: str) -> dict[str, Any]:
    """What a caller chose, by name. types: the options that there are, each with its D-Bus type.

    Raises InvalidArgument for any other, naming it.
    """
    for name, value in given.items():
        if name not in types:
            raise InvalidArgument(f'option {quote(name)} is unknown, there is {_listed(types)}')
        if value.signature != types[name]:
            raise InvalidArgument(f'option "{name}" is of type "{value.signature}", not "{types[name]}"')
    return {name: value.value for name, value in given.items()}


def enable_options(given: Mapping[str, Variant]) -> dict[str, Any]:
    """What EnableWithOptions was told. Raises InvalidArgument."""
    types = {'runtime': 'b', 'wait': 'b'}
    unknown = given.keys() - types.keys() - POLICY_KEYS.keys()
    for name in given:
        if name in unknown:
            raise InvalidArgument(
                f'option {quote(name)} is unknown, there is {_listed(types)}, and there are the keys of a policy: '
                f'{_listed(POLICY_KEYS)}'
            )
    chosen = options({name: value for name, value in given.items() if name in types}, **types)
    return {'settings': settings({name: value for name, value in given.items() if name not in types}), **chosen}


def settings(given: Mapping[str, Variant]) -> dict[str, str]:
    """What somebody chose of a policy, as texts of the configuration.

    Each value has the type of its key, or is such a text already. Raises InvalidArgument.
    """
    found = {}
    for name, value in given.items():
        wanted = POLICY_KEYS[name].type if name in POLICY_KEYS else 's'
        if value.signature not in (wanted, 's'):
            raise InvalidArgument(f'{quote(name)} is of type "{value.signature}", not "{wanted}"')
        found[name] = ' '.join(value.value) if value.signature == 'as' else text_of(value.value)
    return found


def _listed(names: Iterable[str]) -> str:
    return ', '.join(f'"{name}"' for name in names)


def _row(**values: tuple[str, Any]) -> Row:
    """values: by key, the D-Bus type and the value."""
    return {key: Variant(*value) for key, value in values.items()}
