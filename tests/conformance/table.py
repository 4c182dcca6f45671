# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes docs/compatibility.md from results:

python3 -m tests.conformance.table /tmp/results docs/compatibility.md
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.conformance import results
from tests.conformance.catalogue import BOTH, FAMILIES, Behaviour, Case, catalogue
from tests.conformance.differences import declared
from tests.conformance.networks import LOOPBACK
from tests.conformance.results import Result, Results

TITLES = {
    'counters': 'Numbers about a connection',
    'ending': 'How connections end',
    'fault': 'Page faults inside a call',
    'handover': 'One socket in several processes',
    'io_uring': 'io_uring',
    'isolation': 'Connections that look alike',
    'ktls': 'TLS in the kernel',
    'listener': 'Listeners and ports',
    'load': 'Many connections, slow readers',
    'mptcp': 'Multipath TCP',
    'order': 'Order',
    'pace': 'Rates and time stamps',
    'readiness': 'poll, select, epoll and signals',
    'receive': 'Receiving',
    'restriction': 'Restrictions set on a connection in use',
    'send': 'Sending',
}
COLUMNS = {
    'plain': 'plain TCP',
    'sockaccel': 'sockaccel',
    'sockaccel-bridge': 'between containers',
    'sockaccel-dnat': 'by a published port',
    'unchecked': 'unchecked redirect',
}
# What each is compared with: plain TCP in the same network.
CONTROLS = {'sockaccel-bridge': 'plain-bridge', 'sockaccel-dnat': 'plain-dnat'}
FAMILY_NAMES = {'ipv4': 'IPv4', 'ipv6': 'IPv6', 'mapped': 'IPv4 to [::]'}
READER_NAMES = {'blocking': 'blocking', 'nonblocking': 'non-blocking'}

# For each advice the behaviours that it is about, each with the function of the kernel that is the cause.
Notes = dict[str, dict[str, str]]


def words(value: object) -> str:
    """A value as a reader of the table would say it."""
    match value:
        case True:
            return 'yes'
        case False:
            return 'no'
        case None | '' | [] | {}:
            return 'none'
        case list() | tuple():
            return ', '.join(f'({words(item)})' if isinstance(item, list) else words(item) for item in value)
        case dict():
            return ', '.join(f'{key} {words(item)}' for key, item in value.items())
    return str(value)


def summary(result: Result, keys: Iterable[str]) -> str:
    if reason := result.observation.get('unsupported'):
        return f'not on this kernel ({reason})'
    if 'hang' in result.observation:
        return '**hangs**'
    if 'died' in result.observation:
        return '**the process dies**'
    if 'error' in result.observation:
        return f'**fails: {result.observation["error"]}**'
    text = '; '.join(f'{key}: {words(result.seen.get(key))}' for key in keys)
    text = text if len(text) <= 200 else text[:199] + '…'
    return text.replace('|', '\\|')


def which(cases: list[Case], behaviour: Behaviour) -> str:
    """For which readers and families, unless it is all of them."""
    parts = []
    readers = [reader for reader in BOTH if any(case.reader == reader for case in cases)]
    families = [family for family in FAMILIES if any(case.family == family for case in cases)]
    if len(readers) < len(behaviour.readers):
        parts.append(' and '.join(READER_NAMES[reader] for reader in readers) + ' readers')
    if len(families) < len(behaviour.families):
        parts.append(', '.join(FAMILY_NAMES[family] for family in families))
    return f' ({"; ".join(parts)})' if parts else ''


def cell(behaviour: Behaviour, plain: Results, other: Results) -> str:
    """'same', or what was seen in place of what plain TCP shows, once for each different thing."""
    groups: dict[str, list[Case]] = {}
    for case in behaviour.cases():
        if case not in plain or case not in other:
            return 'not run'
        if differing := results.differences(plain[case], other[case]):
            groups.setdefault(summary(other[case], differing), []).append(case)
    if not groups:
        return 'same'
    # Where each run differs in its own way the first tells enough.
    if len(groups) > 3:
        first, _ = next(iter(groups.items()))
        groups = {first + ' …': [case for cases in groups.values() for case in cases]}
    return '<br>'.join(text + which(cases, behaviour) for text, cases in groups.items())


def page(measured: dict[str, Results]) -> Iterator[str]:
    """The lines of the document."""
    register = catalogue()
    plain = measured['plain']
    kernels = sorted({result.kernel for way in measured.values() for result in way.values()})
    runs = sum(len(way) for way in measured.values())
    yield '# Compatibility'
    yield ''
    yield (
        f'What an application sees over plain TCP, over sockaccel, and over an unchecked redirect: '
        f'{len({case.behaviour for case in plain})} behaviours in {runs} runs '
        f'(IPv4, IPv6 and an IPv4 client of a `[::]` listener, blocking and non-blocking readers), '
        f'measured on kernel {", ".join(kernels)} and written by `tests/conformance/table.py`. Do not edit.'
    )
    yield ''
    yield (
        'The unchecked redirect is what well-known example programs do: it is here as the control, to show that '
        'the measurement would see the fault. A non-blocking reader is one whose socket is O_NONBLOCK, and only '
        'those are accelerated by default. Numbers in brackets lead to what to do about a difference.'
    )
    yield ''
    yield (
        'Between containers means: the ends are in two network namespaces on a bridge. By a published port: the '
        'same, and the client connects to a port of the host, so that both addresses and a port are translated. '
        'Both are compared with plain TCP there. See [containers.md](containers.md).'
    )
    notes: Notes = {}
    for module in sorted(
        {behaviour.module for behaviour in register.values()}, key=lambda name: TITLES.get(name, name)
    ):
        behaviours = [entry for entry in register.values() if entry.module == module]
        if not any(case in plain for entry in behaviours for case in entry.cases()):
            continue
        yield ''
        yield f'## {TITLES.get(module, module)}'
        yield ''
        yield '| behaviour | ' + ' | '.join(COLUMNS.values()) + ' |'
        yield '|---' * (1 + len(COLUMNS)) + '|'
        for entry in behaviours:
            first = next((plain[case] for case in entry.cases() if case in plain), None)
            if not first:
                continue
            cells = [summary(first, first.seen)]
            for way in list(COLUMNS)[1:]:
                control, accelerated = measured.get(CONTROLS.get(way, 'plain'), {}), measured.get(way, {})
                seen = cell(entry, control, accelerated)
                if way != 'unchecked' and seen not in ('same', 'not run'):
                    seen += _note(notes, entry, control, accelerated, way.partition('-')[2] or LOOPBACK)
                cells.append(seen)
            yield '| ' + ' | '.join([entry.name, *cells]) + ' |'
    yield ''
    yield '## What to do about the differences'
    yield ''
    if not notes:
        yield 'None was seen.' if 'sockaccel' in measured else 'sockaccel was not measured.'
    for number, (advice, seen_in) in enumerate(notes.items(), 1):
        causes = ', '.join(sorted({f'`{cause}`' for cause in seen_in.values()}))
        yield f'{number}. {advice} ({"; ".join(seen_in)}; in the kernel: {causes})'


def _note(notes: Notes, behaviour: Behaviour, plain: Results, accelerated: Results, network: str) -> str:
    """The number of the advice for a behaviour that differs."""
    differing = (case for case in behaviour.cases() if results.differences(plain[case], accelerated[case]))
    entry = declared(next(differing), network)
    advice = entry.advice if entry else 'Report it as a defect of sockaccel: this difference is not expected.'
    notes.setdefault(advice, {})[behaviour.name] = entry.cause if entry else 'unknown'
    return f' [{list(notes).index(advice) + 1}]'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('results', type=Path, help='directory with plain.jsonl, sockaccel.jsonl, unchecked.jsonl')
    parser.add_argument('output', type=Path, help='the document to write')
    arguments = parser.parse_args()
    measured = results.load(arguments.results)
    if 'plain' not in measured:
        parser.error(f"no results of plain TCP in '{arguments.results}'")
    # tests/kernels/table.py writes the rest.
    kernels = arguments.output.read_text().partition('\n## Kernels\n')[1:] if arguments.output.exists() else ()
    arguments.output.write_text('\n'.join(page(measured)) + '\n' + ''.join(kernels))


if __name__ == '__main__':
    main()
