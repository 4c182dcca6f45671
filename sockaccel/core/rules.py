# SPDX-License-Identifier: GPL-2.0-or-later
"""The connections of a target that are wanted: by the port and address that the client connects to, by user."""

import ipaddress
import pwd
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from sockaccel.core.target import quote

_MAXIMUM_PORT, _MAXIMUM_USER = 65535, 0xFFFFFFFE


class RuleKind(IntEnum):
    """`enum rule_kind` of the BPF programs, where 0 ends the list."""

    PORT = 1
    ADDRESS = 2
    USER = 3


@dataclass(frozen=True)
class Rule:
    """What the BPF programs compare at connect(): first and last for ports and users, else address and mask.

    text: as the configuration has it. A connection is wanted if no rule excludes it, and if, for each kind that
    has including rules, one of them fits.
    """

    text: str
    kind: RuleKind
    exclude: bool
    first: int = 0
    last: int = 0
    address: bytes = bytes(16)
    mask: bytes = bytes(16)


def excluded(rules: Iterable[Rule], address: bytes, port: int, user: int) -> bool:
    """Whether rules leave a connection to TCP, as is_excluded() in bpf/lib/rules.c decides.

    address, port: what the client connects to, the former packed as the rule's. user: the uid of its socket.
    """
    asked, answered = set(), set()
    for rule in rules:
        if rule.kind is RuleKind.ADDRESS:
            bytes_of = zip(address, rule.mask, rule.address, strict=True)
            fits = all(byte & mask == wanted for byte, mask, wanted in bytes_of)
        else:
            fits = rule.first <= (port if rule.kind is RuleKind.PORT else user) <= rule.last
        if rule.exclude and fits:
            return True
        if not rule.exclude:
            asked.add(rule.kind)
            answered |= {rule.kind} if fits else set()
    return asked != answered


def ports(text: str, *, exclude: bool) -> tuple[Rule, ...]:
    """From `80 8000-8999`. Raises ValueError with what is wrong."""
    return tuple(
        Rule(word, RuleKind.PORT, exclude, *_range(word, 1, _MAXIMUM_PORT, 'port')) for word in text.split()
    )


def users(text: str, *, exclude: bool) -> tuple[Rule, ...]:
    """From `postgres 1000-1999`. Raises ValueError with what is wrong."""
    return tuple(Rule(word, RuleKind.USER, exclude, *_user(word)) for word in text.split())


def addresses(text: str, *, exclude: bool) -> tuple[Rule, ...]:
    """From `127.0.0.0/8 ::1`. Raises ValueError with what is wrong."""
    return tuple(_address(word, exclude=exclude) for word in text.split())


def _range(word: str, lowest: int, highest: int, what: str) -> tuple[int, int]:
    first, dash, last = word.partition('-')
    numbers = (first, last if dash else first)
    if not all(number.isascii() and number.isdigit() and len(number) <= 10 for number in numbers):
        raise ValueError(f'has {quote(word)}, which is no {what} and no range of them such as "1000-1999"')
    low, high = int(numbers[0]), int(numbers[1])
    if not lowest <= low <= high <= highest:
        raise ValueError(f'has {quote(word)}, but a {what} is from {lowest} to {highest}, ranges upwards')
    return low, high


def _user(word: str) -> tuple[int, int]:
    if word[0].isdigit():
        return _range(word, 0, _MAXIMUM_USER, 'uid')
    try:
        uid = pwd.getpwnam(word).pw_uid
    except (KeyError, ValueError, UnicodeError) as exc:
        raise ValueError(f'has {quote(word)}, which is no user of this host') from exc
    return uid, uid


def _address(word: str, *, exclude: bool) -> Rule:
    try:
        network = ipaddress.ip_network(word)
    except ValueError as exc:
        raise ValueError(f'has {quote(word)}, which is no address and no range such as "127.0.0.0/8"') from exc
    address, mask = network.network_address.packed, network.netmask.packed
    if network.version == 4:
        # As in `struct flow` of the BPF programs: ::ffff:a.b.c.d
        address, mask = bytes(10) + b'\xff\xff' + address, b'\xff' * 12 + mask
    return Rule(word, RuleKind.ADDRESS, exclude, address=address, mask=mask)
