# SPDX-License-Identifier: GPL-2.0-or-later
"""What an administrator decides about the connections of a target, and where each decision is from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sockaccel.core.keys import POLICY_KEYS, is_list, parse, policy_key, text_of
from sockaccel.core.limits import MAX_RULES
from sockaccel.core.rules import Rule
from sockaccel.core.target import quote

# A key, its value as a file would have it, and where that is from: file:line, words.CHOSEN, or '' for the
# default.
Row = tuple[str, str, str]


@dataclass(frozen=True)
class Policy:
    """What is in force for a target.

    accepted_issues: names of findings that do not keep it from being enabled. blocking_readers: whether
    connections may join whose ends block in recv(). other_namespaces: whether ends in different network namespaces
    may meet, if it has both. heartbeat_seconds: for how long no message need go by TCP between ends that something
    may lie between. adopt_connections: whether connections may join that were there before. join_delay_ms: how old
    a connection must be to join. sources: where each key's value is from; a key that has its default is not there.
    """

    accepted_issues: frozenset[str] = frozenset()
    blocking_readers: bool = False
    other_namespaces: bool = False
    heartbeat_seconds: int = 1
    adopt_connections: bool = True
    include_ports: tuple[Rule, ...] = ()
    exclude_ports: tuple[Rule, ...] = ()
    include_addresses: tuple[Rule, ...] = ()
    exclude_addresses: tuple[Rule, ...] = ()
    include_users: tuple[Rule, ...] = ()
    exclude_users: tuple[Rule, ...] = ()
    join_delay_ms: int = 100
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)

    @property
    def rules(self) -> tuple[Rule, ...]:
        return (
            *self.include_ports, *self.exclude_ports, *self.include_addresses, *self.exclude_addresses,
            *self.include_users, *self.exclude_users,
        )  # fmt: skip

    @property
    def join_after_s(self) -> float:
        return self.join_delay_ms / 1000

    def lets_in_more_than(self, before: 'Policy') -> bool:
        """Whether connections may join that an earlier policy left to TCP. Other rules may let in others."""
        return (
            self.blocking_readers > before.blocking_readers
            or self.other_namespaces > before.other_namespaces
            or self.adopt_connections > before.adopt_connections
            or self.rules != before.rules
        )

    def rows(self) -> tuple[Row, ...]:
        """All keys."""
        return tuple(
            (name, text_of(getattr(self, key.field)), ', '.join(self.sources.get(name, ())))
            for name, key in POLICY_KEYS.items()
        )


DEFAULTS = Policy()
MANY_RULES = f'a target can have {MAX_RULES} ports, addresses and users in all'


@dataclass(frozen=True)
class Layer:
    """What one place says of a policy: some of the keys. values, sources: by key, as Policy has them."""

    values: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)

    def assigned(self, name: str, text: str, source: str) -> 'Layer':
        """With one more assignment.

        A list grows, and an empty text takes back what was assigned before (systemd.syntax(7)). Raises ValueError
        with a sentence.
        """
        key = policy_key(name)
        values, sources = dict(self.values), dict(self.sources)
        before, places = values.pop(name, None), sources.pop(name, ())
        if not text:
            return Layer(values, sources)
        value = parse(name, key, text)
        if before is not None and is_list(value):
            value, places = (before | value if isinstance(value, frozenset) else before + value), (*places, source)
        else:
            places = (source,)
        made = Layer({**values, name: value}, {**sources, name: places})
        if len(made.on(DEFAULTS).rules) > MAX_RULES:
            raise ValueError(f'{name}= {quote(text)} is one too many: {MANY_RULES}')
        return made

    def on(self, below: Policy) -> Policy:
        """The policy where this layer's values take the place of those below, or add to them."""
        changed: dict[str, Any] = {}
        sources = dict(below.sources)
        for name, value in self.values.items():
            key = POLICY_KEYS[name]
            changed[key.field] = getattr(below, key.field) | value if key.adds else value
            sources[name] = (*(sources.get(name, ()) if key.adds else ()), *self.sources[name])
        return replace(below, **changed, sources=sources)
