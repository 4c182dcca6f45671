# SPDX-License-Identifier: GPL-2.0-or-later
"""An interception: that the connections of a target are led to a proxy on this host."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

from sockaccel.core.limits import MAX_INBOUND, MAX_RULES
from sockaccel.core.rules import Rule, RuleKind, addresses, ports, users
from sockaccel.core.target import Kind, Target, quote
from sockaccel.errors import InvalidArgument, InvalidTarget

# Envoy's port for outgoing connections, as Istio has it.
DEFAULT_OUTBOUND = 15001


class WhenDown(Enum):
    """What happens to a connection while the proxy does not listen."""

    REFUSE = 'refuse'
    BYPASS = 'bypass'


@dataclass(frozen=True)
class Interception:
    """target, proxy: names of targets. outbound: the port of the proxy that takes what the target connects to, 0
    if that is not led. inbound: ports of the target, each with the port of the proxy that takes connections to it.

    except_ports, except_addresses, except_users: which of its connections go direct: where they go to, and whose
    they are.
    """

    target: str
    proxy: str
    outbound: int = DEFAULT_OUTBOUND
    inbound: tuple[tuple[int, int], ...] = ()
    except_ports: tuple[Rule, ...] = ()
    except_addresses: tuple[Rule, ...] = ()
    except_users: tuple[Rule, ...] = ()
    when_down: WhenDown = WhenDown.REFUSE

    @classmethod
    def parse(cls, target: str, proxy: str, options: Mapping[str, Any]) -> Self:
        """options: some of outbound (a number), inbound (texts such as "8080=15006"), except_ports,
        except_addresses, except_users (texts as the keys of the configuration have them) and when_down.

        Raises InvalidTarget, InvalidArgument.
        """
        made = cls(
            _name('target', target),
            _name('proxy', proxy),
            int(options.get('outbound', DEFAULT_OUTBOUND)),
            _pairs(options.get('inbound', ())),
            _rules('except_ports', options, ports),
            _rules('except_addresses', options, addresses),
            _rules('except_users', options, users),
            _when_down(options.get('when_down', WhenDown.REFUSE.value)),
        )
        if made.target == made.proxy and not made.except_users:
            raise InvalidArgument(
                f'{quote(target)} is its own proxy: name the user of the proxy, whose connections go direct '
                '(--except-user)'
            )
        if not (made.outbound == 0 and made.inbound):
            _port('outbound', made.outbound)
        if len(made.rules) > MAX_RULES:
            raise InvalidArgument(f'there can be {MAX_RULES} ports, addresses and users that go direct, not more')
        return made

    @property
    def rules(self) -> tuple[Rule, ...]:
        return *self.except_ports, *self.except_addresses, *self.except_users

    @property
    def inbound_texts(self) -> list[str]:
        return [f'{port}={to}' for port, to in self.inbound]

    def to_json(self) -> dict[str, Any]:
        return {
            'target': self.target,
            'proxy': self.proxy,
            'outbound': self.outbound,
            'inbound': self.inbound_texts,
            'except_ports': [rule.text for rule in self.except_ports],
            'except_addresses': [rule.text for rule in self.except_addresses],
            # With the number: whether the name can be looked up when sockaccel starts is not certain.
            'except_users': [[rule.text, rule.first, rule.last] for rule in self.except_users],
            'when_down': self.when_down.value,
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError, ValueError, and what `parse` raises."""
        given = {name: value for name, value in entry.items() if name != 'except_users'}
        users_given = {
            'except_users': [f'{int(first)}-{int(last)}' for _text, first, last in entry['except_users']]
        }
        made = cls.parse(str(entry['target']), str(entry['proxy']), given | users_given)
        named = tuple(
            Rule(str(text), RuleKind.USER, exclude=True, first=int(first), last=int(last))
            for text, first, last in entry['except_users']
        )
        return cls(**{**made.__dict__, 'except_users': named})


def _name(what: str, text: str) -> str:
    target = Target.parse(text)
    if target.kind is Kind.EVERYTHING or target.name == '/':
        raise InvalidTarget(f'{what} {quote(text)} is all of this host: name a unit or the path of a cgroup')
    return target.name


def _port(what: str, number: int) -> int:
    if not 1 <= number <= 65535:
        raise InvalidArgument(f'{what} port {number} is not a number from 1 to 65535')
    return number


def _pairs(texts: Iterable[str]) -> tuple[tuple[int, int], ...]:
    pairs: dict[int, int] = {}
    for text in texts:
        given, sign, to = text.partition('=')
        if not (sign and given.isascii() and given.isdecimal() and to.isascii() and to.isdecimal()):
            raise InvalidArgument(
                f'option "inbound" has {quote(text)}, which is not a port of the target and one of the proxy, '
                'such as "8080=15006"'
            )
        port = _port('inbound', int(given))
        if port in pairs:
            raise InvalidArgument(f'option "inbound" names port {port} twice')
        pairs[port] = _port('inbound', int(to))
    if both := sorted(set(pairs) & set(pairs.values())):
        raise InvalidArgument(f'port {both[0]} cannot be one of the target and of the proxy, in option "inbound"')
    if len(pairs) > MAX_INBOUND:
        raise InvalidArgument(f'option "inbound" can name {MAX_INBOUND} ports, not more')
    return tuple(pairs.items())


def _rules(name: str, options: Mapping[str, Any], parse: Callable[..., tuple[Rule, ...]]) -> tuple[Rule, ...]:
    texts: Iterable[str] = options.get(name, ())
    try:
        return parse(' '.join(texts), exclude=True)
    except ValueError as exc:
        raise InvalidArgument(f'option "{name}" {exc}') from exc


def _when_down(text: str) -> WhenDown:
    try:
        return WhenDown(text)
    except ValueError:
        choices = ', '.join(f'"{each.value}"' for each in WhenDown)
        raise InvalidArgument(f'option "when_down" is {quote(text)}, and can be {choices}') from None
