# SPDX-License-Identifier: GPL-2.0-or-later
"""The keys of a section [Target NAME] that lead its connections to a proxy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sockaccel.core.interception import Interception
from sockaccel.errors import InvalidArgument, SockaccelError

# The option of Intercept that each gives; a list grows with each assignment, as those of a policy do.
_PROXY, _OUTBOUND = 'InterceptProxy', 'InterceptOutbound'
_TEXTS = {_PROXY: 'proxy', _OUTBOUND: 'outbound', 'InterceptWhenDown': 'when_down'}
_LISTS = {
    'InterceptInbound': 'inbound',
    'InterceptExceptPorts': 'except_ports',
    'InterceptExceptAddresses': 'except_addresses',
    'InterceptExceptUsers': 'except_users',
}
LED_KEYS = {**_TEXTS, **_LISTS}


@dataclass(frozen=True)
class Assigned:
    """What files say of a key: its value, and each file:line that has a part in it."""

    text: str
    sources: tuple[str, ...]


Given = Mapping[str, Assigned]


@dataclass(frozen=True)
class Led:
    """An interception that the files want. source: file:line of its proxy."""

    interception: Interception
    source: str


def assigned(given: Given, name: str, text: str, where: str) -> Given:
    """With one more line of a file. An empty text takes back what was assigned."""
    before = given.get(name)
    if not text:
        return {key: value for key, value in given.items() if key != name}
    if before and name in _LISTS:
        return {**given, name: Assigned(f'{before.text} {text}', (*before.sources, where))}
    return {**given, name: Assigned(text, (where,))}


def led(target: str, given: Given) -> Led | None:
    """What a section wants; None for one without these keys. Raises InvalidArgument with file and line."""
    if not given:
        return None
    if _PROXY not in given:
        name, value = next(iter(given.items()))
        raise InvalidArgument(f'{value.sources[0]}: {name}= says nothing without {_PROXY}=')
    options: dict[str, Any] = {
        option: given[name].text for name, option in _TEXTS.items() if name in given and name != _PROXY
    }
    options |= {option: given[name].text.split() for name, option in _LISTS.items() if name in given}
    proxy = given[_PROXY]
    if outbound := options.get('outbound'):
        if not outbound.isascii() or not outbound.isdecimal():
            raise InvalidArgument(f'{given[_OUTBOUND].sources[0]}: {_OUTBOUND}= "{outbound}" is not a number')
        options['outbound'] = int(outbound)
    try:
        return Led(Interception.parse(target, proxy.text, options), proxy.sources[0])
    except SockaccelError as exc:
        raise InvalidArgument(f'{proxy.sources[0]}: {exc}') from exc
