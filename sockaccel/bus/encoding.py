# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of org.sockaccel1, which are dictionaries so that a later version can have more keys; and its options."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from sockaccel.core import rows, sentences, words
from sockaccel.core.advice import ADVICE
from sockaccel.core.audit import Exchange, Report, Terms
from sockaccel.core.connection import Counter, Event
from sockaccel.core.finding import Finding
from sockaccel.core.keys import POLICY_KEYS, text_of
from sockaccel.core.knowledge import WHY
from sockaccel.core.led import InterceptionStatus
from sockaccel.core.programs import Row as Program
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


# Of Intercept, with their D-Bus types.
INTERCEPTION_OPTIONS = {
    'outbound': 'q', 'inbound': 'as', 'except_ports': 'as', 'except_addresses': 'as', 'except_users': 'as',
    'when_down': 's',
}  # fmt: skip


def interception(status: InterceptionStatus) -> Row:
    wanted = status.interception
    return _row(
        target=('s', wanted.target),
        proxy=('s', wanted.proxy),
        state=('s', words.TARGET_STATES[status.state]),
        detail=('s', status.detail),
        outbound=('q', wanted.outbound),
        inbound=('as', wanted.inbound_texts),
        except_ports=('as', [rule.text for rule in wanted.except_ports]),
        except_addresses=('as', [rule.text for rule in wanted.except_addresses]),
        except_users=('as', [rule.text for rule in wanted.except_users]),
        when_down=('s', wanted.when_down.value),
        file=('s', status.file),
        proxy_is_down=('b', status.proxy_is_down),
        counters=('a{st}', {name: status.counters.get(name, 0) for name in words.LEAD_COUNTERS}),
    )


def report(found: Report, terms: Terms) -> Row:
    return _row(
        target=('s', found.target),
        seconds=('d', found.seconds),
        connections=('u', found.connections),
        left_out=('u', found.left_out),
        local_bytes=('t', found.local_bytes),
        remote_bytes=('t', found.remote_bytes),
        summary=('as', sentences.summary(found)),
        exchanges=('aa{sv}', [_exchange(each, terms) for each in found.exchanges]),
        more=('u', found.more),
        unseen=('as', sentences.unseen(terms)),
        command=('s', found.command),
    )


def _exchange(seen: Exchange, terms: Terms) -> Row:
    return _row(
        client=('s', seen.client),
        server=('s', seen.server),
        port=('q', seen.port),
        local=('b', seen.local),
        connections=('u', seen.connections),
        traffic=('s', words.TRAFFIC[seen.traffic]),
        manner=('s', sentences.manner(seen)),
        to_server_bytes=('t', seen.to_server.bytes),
        to_server_size=('t', seen.to_server.size),
        to_client_bytes=('t', seen.to_client.bytes),
        to_client_size=('t', seen.to_client.size),
        reason=('s', seen.reason),
        programs=('as', list(seen.who)),
        sentence=('s', sentences.about(seen, terms)),
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


def program(known: Program) -> Row:
    knows = [each for each in words.KNOWLEDGE if each in known.knowledge]
    listed, seen = words.PROGRAM_SOURCES
    return _row(
        name=('s', known.name),
        knows=('as', [words.KNOWLEDGE[each] for each in knows]),
        why=('s', '; '.join(WHY[each] for each in knows)),
        source=('s', listed if known.where else seen),
        where=('s', known.where),
        since=('t', known.since),
        in_force=('b', known.in_force),
    )


def setting(section: str, key: str, value: str, source: str) -> Row:
    return _row(section=('s', section)) | _value(key, value, source)


def _value(key: str, value: str, source: str) -> Row:
    return _row(key=('s', key), value=('s', value), source=('s', source))


def connection(found: rows.Row) -> Row:
    return {key: Variant(_type_of(key), value) for key, value in found.items()}


@cache
def _type_of(key: str) -> str:
    """The D-Bus type of a key of a connection."""
    for ending, type_ in (('_port', 'q'), ('_pid', 'u'), ('_bytes', 't'), ('_messages', 't')):
        if key.endswith(ending):
            return type_
    if key in ('adopted', 'waiting_for_heartbeat'):
        return 'b'
    return 't' if key == 'age_ns' or key.endswith('netns_cookie') else 's'


def event(happened: Event, target: str, reason: Counter | None, *, programs: bool) -> dict[str, Any]:
    """What a line of an event says, before it is JSON.

    target: the name of the end's target. reason: what `happened.reason` stands for. programs: whether the one who
    asks may know whose it is; otherwise these keys are as if it were unknown.
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
    """What EnableWithOptions was told: arguments of Engine.enable, and the probation. Raises InvalidArgument."""
    types = {'runtime': 'b', 'wait': 'b', 'probation': 'u'}
    for name in given:
        if name not in types and name not in POLICY_KEYS:
            raise InvalidArgument(
                f'option {quote(name)} is unknown, there is {_listed(types)}, and of a policy '
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
