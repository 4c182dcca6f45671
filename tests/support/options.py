# SPDX-License-Identifier: GPL-2.0-or-later
"""What docs/options.md says of socket options, and what this machine's headers and kernel know of them."""

import errno
import re
import socket
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sockaccel.kernel.libbpf import BTF_KIND_STRUCT, BTF_KIND_UNION, KernelTypes
from tests.support.harness import ROOT

INCLUDE = Path('/usr/include')
# Level: its header, and what the names of its options begin with.
HEADERS = {
    'SOL_SOCKET': ('asm-generic/socket.h', 'SO_|SCM_'),
    'IPPROTO_TCP': ('linux/tcp.h', 'TCP_'),
    'IPPROTO_IP': ('linux/in.h', 'IP_|MCAST_'),
    'IPPROTO_IPV6': ('linux/in6.h', 'IPV6_'),
    'BPF': ('linux/bpf.h', 'TCP_BPF_|SK_BPF_'),
}
# Values of options and fields of headers, which the same files define.
_NO_OPTION = re.compile(
    r'(IP|IPV6)_PMTUDISC_\w+|IP_DEFAULT_\w+|MCAST_(EXCLUDE|INCLUDE)|IPV6_(FL|TLV)_\w+|TCP_REPAIR_(ON|OFF)'
    r'|TCP_(MD5SIG|AO)_MAXKEYLEN'
)
# Level: address family of a socket that has it, and the numbers to try. From 64 on, SOL_IP and SOL_IPV6 belong to
# xtables and multicast routing too (linux/netfilter_ipv6/ip6_tables.h), but for these.
_PROBED = {
    'SOL_SOCKET': (socket.AF_INET, [*range(1, 256)]),
    'IPPROTO_TCP': (socket.AF_INET, [*range(1, 256)]),
    'IPPROTO_IP': (socket.AF_INET, [*range(1, 64)]),
    'IPPROTO_IPV6': (socket.AF_INET6, [*range(1, 64), *range(70, 80)]),
}
# The level whose numbers a level takes too: multicast of IPv6 uses those of linux/in.h.
_SHARED = {'IPPROTO_IPV6': 'IPPROTO_IP'}


@dataclass(frozen=True)
class Rule:
    """A line of the table of rules. field: structure and path of members, as KernelTypes knows them."""

    name: str
    field: str
    end: str
    asked: frozenset[str]
    counters: tuple[str, ...]
    where: str
    implemented: bool

    @property
    def optional(self) -> bool:
        return 'CONFIG_' in self.where


@dataclass(frozen=True)
class Verdict:
    """A line of a table of options."""

    level: str
    names: tuple[str, ...]
    verdict: str
    why: str


def known() -> dict[str, dict[str, int]]:
    """Level: options that have been looked at, with their numbers."""
    levels = _file()['options']
    return {
        level: {name: int(number, 0) for line in by_kernel.values() for name, number in _pairs(line)}
        for level, by_kernel in levels.items()
    }


def known_members() -> dict[str, set[str]]:
    """Structure: members that have been looked at."""
    return {structure: set(text.split()) for structure, text in _file()['members'].items()}


def _file() -> dict[str, Any]:
    with (ROOT / 'tests/support/options.toml').open('rb') as file:
        return tomllib.load(file)


def _pairs(line: str) -> Iterator[list[str]]:
    return (word.split('=') for word in line.split())


def document() -> str:
    return (ROOT / 'docs/options.md').read_text()


def rules(text: str) -> list[Rule]:
    """The table under "Rules"."""
    return [
        Rule(
            name,
            field.strip('`'),
            end,
            frozenset(asked.split(', ')),
            tuple(re.findall(r'`(\w+)`', counters)),
            where,
            state != 'not yet',
        )
        for name, field, _against, end, asked, counters, where, state in _rows(text, 'Rules')
    ]


def verdicts(text: str) -> list[Verdict]:
    """The tables of all levels, and of what is beside the socket."""
    return [
        Verdict(level, tuple(re.findall(r'`(\w+)`', cells[0])), cells[1], cells[2])
        for level in (*HEADERS, 'MSG', 'Beside the socket')
        for cells in _rows(text, level)
    ]


def _rows(text: str, heading: str) -> Iterable[list[str]]:
    """The cells of the one table under a heading, without its own first two lines."""
    section = text.split(f'\n## {heading}\n', 1)[1].split('\n## ', 1)[0]
    lines = [line for line in section.split('\n') if line.startswith('|')]
    return [[cell.strip() for cell in line[1:-1].split('|')] for line in lines[2:]]


def defined(level: str, text: str) -> set[str]:
    """The options that the text of a level's header defines by a number of their own."""
    prefix = HEADERS[level][1]
    if level == 'BPF':
        return set(re.findall(rf'^\s*((?:{prefix})\w+)\s*=\s*1\d\d\d\b', text, re.MULTILINE))
    names = re.findall(rf'^#\s*define\s+((?:{prefix})\w+)\s+\d+\b', text, re.MULTILINE)
    return {name for name in names if not _NO_OPTION.fullmatch(name)}


def defined_flags(text: str) -> dict[str, int]:
    """The flags that glibc's bits/socket.h defines."""
    return {
        name: int(number, 0) for name, number in re.findall(r'^\s*(MSG_\w+)\s*=\s*(0x\w+)', text, re.MULTILINE)
    }


def answered(level: str) -> set[int]:
    """The numbers that the running kernel does not call unknown (ENOPROTOOPT), of a socket of our own."""
    family, numbers = _PROBED[level]
    return {number for number in numbers if _is_answered(family, _number(level), number)}


def numbers(level: str) -> set[int]:
    """The numbers of the known options of a level."""
    options = known()
    return {number for name in (level, _SHARED.get(level, level)) for number in options[name].values()}


def _number(level: str) -> int:
    return int(getattr(socket, level))


def _is_answered(family: int, level: int, number: int) -> bool:
    with socket.socket(family) as asked:
        try:
            asked.getsockopt(level, number, 256)
        except OSError as exc:
            if exc.errno != errno.ENOPROTOOPT:
                return True
        else:
            return True
        try:
            asked.setsockopt(level, number, 0)
        except OSError as exc:
            return exc.errno != errno.ENOPROTOOPT
        return True


def members(types: KernelTypes, structure: str) -> set[str]:
    """The names of a structure's members, of unnamed structures and unions in it too."""
    return set(_members(types, types.find(structure, BTF_KIND_STRUCT)))


def _members(types: KernelTypes, type_id: int) -> Iterator[str]:
    kind, vlen, _flag, words = types.words(type_id, 3)
    if kind not in (BTF_KIND_STRUCT, BTF_KIND_UNION):
        return
    for index in range(vlen):
        name = types.name(words[3 * index])
        if not name:
            yield from _members(types, types.resolve(words[3 * index + 1]))
        elif not name.startswith('__cacheline_group_'):
            yield name
