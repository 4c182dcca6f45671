# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/benchmarks, made of the results alone: README.md and plots for users, the goals in NOTES.md."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import plots, results, samples, ways

PLOTS = {
    'requests': ('request/response', 'Requests and responses'),
    'streams': ('stream', 'Streams'),
    'tools': ('', 'Standard tools'),
}
# What stands between these two lines of NOTES.md is replaced.
GOALS_BEGIN, GOALS_END = '<!-- Goals, made by bench.report. -->\n', '<!-- End of the goals. -->\n'
_HEAD = """\
# Benchmarks

Measured on {kernel}, {processor}, {cpus} CPUs, {memory:.0f} GiB, {date}. The figures of your machine
are the ones that count: `sudo make bench` measures all of it on Debian 12, in a quarter of an hour. It installs
the programs that it measures, and writes this page, the plots and [results.json](results.json) anew. After it,
`sudo .venv/bin/python -m bench streams` measures and prints a part; `--help` names the parts.

Each figure is the median of {rounds} rounds. In each round every way takes its turn, in another order each time:
whatever disturbs the machine disturbs all of them. ± is half the spread between the lowest and the highest round;
a figure with a large spread says little.

{ways}

"× plain" is sockaccel by plain TCP. "redirected" is the share of the bytes that did not go by TCP. CPU is the time
of client and server together for each operation, in microseconds: by sockaccel / by plain TCP. In the rows named
"bystander" the figure of sockaccel is that of a bystander.
"""
_SIDECAR = """\
The same work through a proxy (Envoy) beside the client, client and server in two network namespaces. CPU is the
time of client, server and proxy together for each operation. × is by nft REDIRECT. "redirected" is the share of
the client's and the server's bytes that did not go by TCP.

{ways}
"""
_DAEMON = """\
What the daemon itself takes. The kernel memory of a connection is that of both its ends.
"""


def write(found: Mapping[str, Any], directory: Path) -> None:
    """README.md and the plots, and the goals in NOTES.md where that has a place for them. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    parts = [_head(found), *_failed(found)]
    for name, (prefix, title) in PLOTS.items():
        cases = [
            (f'{case["group"].removeprefix(prefix).strip(", ")}, {case["name"]}'.removeprefix(', '), case['ways'])
            for case in found['cases']
            if _plot_of(case) == name
        ]
        if cases:
            (directory / f'{name}.svg').write_text(plots.bars(title, cases))
            parts.append(f'![{title}, by way, as a multiple of plain TCP]({name}.svg)\n')
    through = [case for case in found['cases'] if _is_sidecar(case)]
    parts.append(_table(case for case in found['cases'] if not _is_sidecar(case)))
    if through:
        parts += [_SIDECAR.format(ways=_listed(ways.SIDECAR)), _sidecar(through)]
    if 'daemon' in found:
        parts += [_DAEMON, _daemon(found['daemon'])]
    (directory / 'README.md').write_text('\n'.join(parts))
    notes = directory / 'NOTES.md'
    if notes.exists():
        before, begin, rest = notes.read_text().partition(GOALS_BEGIN)
        _old, end, after = rest.partition(GOALS_END)
        if begin and end:
            notes.write_text(f'{before}{begin}\n{_goals(found)}\n{end}{after}')


def _head(found: Mapping[str, Any]) -> str:
    known = ways.SENTENCES | found['missing']
    machine = {**found['machine'], 'rounds': found['rounds']}
    return _HEAD.format(**machine, ways=_listed(known))


def _listed(sentences: Mapping[str, str]) -> str:
    return '\n'.join(f'* {name}: {sentence}' for name, sentence in sentences.items())


def _failed(found: Mapping[str, Any]) -> Iterator[str]:
    if failed := found.get('failed'):
        yield 'Not measured, because it failed:\n'
        yield '\n'.join(f'* {name}: {text.splitlines()[0]}' for name, text in failed.items()) + '\n'


def _plot_of(case: Mapping[str, Any]) -> str:
    if case['subject'] != ways.SOCKACCEL or ways.PLAIN not in case['ways']:
        return ''
    for name, (prefix, _title) in PLOTS.items():
        if prefix and case['group'].startswith(prefix):
            return name
    return 'tools' if case.get('tool') else ''


def _title(case: Mapping[str, Any]) -> str:
    return f'{case["group"]}, {case["name"]}'


def _table(cases: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        '| work | unit | plain | unix | unchecked | sockaccel | × plain | redirected | CPU |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for case in cases:
        found = case['ways']
        subject = found[case['subject']]
        cells = [_figure(found.get(way)) for way in (ways.PLAIN, ways.UNIX, ways.UNCHECKED)] + [_figure(subject)]
        times = samples.ratio(case, ways.PLAIN)
        share = '' if subject['share'] is None else _share(subject)
        cpu = ' / '.join(filter(None, (_cpu(found.get(way)) for way in (case['subject'], ways.PLAIN))))
        cells = [_title(case), case['unit'], *cells, '' if times is None else f'{times:.2f}', share, cpu]
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows) + '\n'


def _is_sidecar(case: Mapping[str, Any]) -> bool:
    return bool(case['subject'] in ways.SIDECAR)


def _sidecar(cases: Iterable[Mapping[str, Any]]) -> str:
    """A row for each figure: with one connection at a time the rate is a round trip too."""
    rows = [f'| work | figure | {" | ".join(ways.SIDECAR)} |', f'|---|---|{"---|" * len(ways.SIDECAR)}']
    for case in cases:
        found = [case['ways'].get(name) for name in ways.SIDECAR]
        base = case['ways'].get(ways.REDIRECT)
        figures = {case['unit']: [_figure(each) + _times(each, base, _rate) for each in found]}
        if 'at once' not in case['name']:
            figures['µs each'] = [_number(1e6 / _rate(each)) if each and _rate(each) else '' for each in found]
        figures['µs of CPU each'] = [_cpu(each) + _times(each, base, _spent) for each in found]
        figures['redirected'] = [
            f'{100 * each["share"]:.0f} %' if each and each['share'] else '' for each in found
        ]
        rows += [f'| {case["name"]} | {figure} | {" | ".join(cells)} |' for figure, cells in figures.items()]
    return '\n'.join(rows) + '\n'


def _rate(summary: Mapping[str, Any]) -> float:
    return float(summary['median'])


def _spent(summary: Mapping[str, Any]) -> float:
    return float((summary['client_us'] or 0) + (summary['server_us'] or 0))


def _times(
    summary: Mapping[str, Any] | None, base: Mapping[str, Any] | None, figure: Callable[[Mapping[str, Any]], float]
) -> str:
    if not summary or not base or summary is base or not figure(base):
        return ''
    return f', × {figure(summary) / figure(base):.2f}'


def _figure(summary: Mapping[str, Any] | None) -> str:
    if not summary:
        return ''
    spread = 50 * (summary['highest'] - summary['lowest']) / (summary['median'] or 1)
    return f'{_number(summary["median"])} ±{spread:.0f} %'


def _number(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _share(summary: Mapping[str, Any]) -> str:
    return f'{100 * summary["share"]:.0f} %'


def _cpu(summary: Mapping[str, Any] | None) -> str:
    if not summary or summary['client_us'] is None:
        return ''
    microseconds = summary['client_us'] + summary['server_us']
    return f'{microseconds:,.0f}' if microseconds >= 1000 else f'{microseconds:.3g}'


def _daemon(figures: Mapping[str, Any]) -> str:
    rows = ['| the daemon | measured |', '|---|---|']
    rows += [f'| {name} | {_number(figure["value"])} |' for name, figure in figures.items()]
    return '\n'.join(rows) + '\n'


def _goals(found: Mapping[str, Any]) -> str:
    """What was measured beside what was wanted, what was missed in bold, and how much of it was reached."""
    rows = [(_title(case), list(_judged(case))) for case in found['cases']]
    for name, figure in found.get('daemon', {}).items():
        value, goal = figure['value'], figure['goal']
        rows.append((name, [] if goal is None else [(f'{_number(value)} (≤ {goal:g})', value <= goal)]))
    every = [reached for _name, judged in rows for _text, reached in judged]
    date = found['machine']['date']
    lines = [
        f'Of the run of {date}, {sum(every)} of {len(every)} goals were reached; the others are **bold**.',
        '',
    ]
    lines += ['| work | measured (goal) |', '|---|---|']
    for name, judged in rows:
        if judged:
            lines.append(
                f'| {name} | {", ".join(text if reached else f"**{text}**" for text, reached in judged)} |'
            )
    return '\n'.join(lines) + '\n'


def _judged(case: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """For each goal of a case what was measured, with the goal, and whether it was reached."""
    for way in case['ways']:
        measured, goal = samples.ratio(case, way), case['goals'].get(way)
        if way != case['subject'] and measured is not None and goal is not None:
            yield f'{measured:.2f} × {way} (≥ {goal})', measured >= goal
    if (goal := case.get('share_goal')) is not None:
        share = case['ways'][case['subject']]['share'] or 0
        yield f'{100 * share:.0f} % redirected (> {100 * goal:g} %)', share > goal


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('results', type=Path)
    parser.add_argument('directory', type=Path)
    options = parser.parse_args()
    write(results.read(options.results), options.directory)
