# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/benchmarks: a table and plots, made from the results alone."""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use('svg')
from matplotlib import pyplot

from bench import samples, ways

NAME, PLOTS = 'README.md', {
    'requests': ('request/response', 'Requests and responses'),
    'streams': ('stream', 'Streams'),
    'tools': ('', 'Standard tools'),
}  # fmt: skip
COLOURS = {ways.PLAIN: '#8c8c8c', ways.UNIX: '#4c9f70', ways.UNCHECKED: '#d1a054', ways.SOCKACCEL: '#2f6db5'}
# The same results give the same files.
mpl.rcParams['svg.hashsalt'] = 'sockaccel'
_HEAD = """\
# Benchmarks

Made by `make bench` on {kernel}, {processor}, {cpus} CPUs, {memory:.0f} GiB, {date}. Medians of {rounds} rounds;
the rivals take turns in each round. ± is half the spread between the lowest and the highest round. The machine is
virtual and not quiet: a figure with a large spread says little. [NOTES.md](NOTES.md) tells what was tried.

{ways}

"redirected" is the share of the bytes that did not go by TCP. CPU is that of client + server, in microseconds for
each operation, by sockaccel and by plain TCP. A goal that was not reached is **bold**; the
last column says how many of a row were.
"""


def write(results: Mapping[str, Any], directory: Path) -> None:
    """README.md and the plots."""
    directory.mkdir(parents=True, exist_ok=True)
    parts = [_head(results), _summary(results)]
    for name, (prefix, title) in PLOTS.items():
        cases = [case for case in results['cases'] if _plot_of(case) == name]
        if cases:
            _plot(cases, title, directory / f'{name}.svg', shortened=prefix)
            parts.append(f'![{title}, by way, as a multiple of plain TCP]({name}.svg)\n')
    parts.append(_table(results['cases']))
    if 'daemon' in results:
        parts.append(_daemon(results['daemon']))
    (directory / NAME).write_text('\n'.join(parts))


def _head(results: Mapping[str, Any]) -> str:
    known = ways.SENTENCES | results['missing']
    machine = {**results['machine'], 'rounds': results['rounds']}
    return _HEAD.format(**machine, ways='\n'.join(f'* {name}: {sentence}' for name, sentence in known.items()))


def _plot_of(case: Mapping[str, Any]) -> str:
    if case['subject'] != ways.SOCKACCEL or ways.PLAIN not in case['ways']:
        return ''
    for name, (prefix, _title) in PLOTS.items():
        if prefix and case['group'].startswith(prefix):
            return name
    return 'tools' if case.get('tool') else ''


def _plot(cases: list[Mapping[str, Any]], title: str, path: Path, shortened: str) -> None:
    names = [way for way in COLOURS if any(way in case['ways'] for case in cases)]
    figure, axes = pyplot.subplots(figsize=(9, 0.5 + 0.16 * (len(names) + 1) * len(cases)))
    height = 0.8 / len(names)
    for index, way in enumerate(names):
        places: list[float] = []
        values: list[float] = []
        errors: tuple[list[float], list[float]] = ([], [])
        for row, case in enumerate(cases):
            if way in case['ways']:
                plain, summary = case['ways'][ways.PLAIN]['median'], case['ways'][way]
                places.append(row + (index - len(names) / 2 + 0.5) * height)
                values.append(summary['median'] / plain)
                errors[0].append((summary['median'] - summary['lowest']) / plain)
                errors[1].append((summary['highest'] - summary['median']) / plain)
        axes.barh(places, values, height, xerr=errors, label=way, color=COLOURS[way],
                  error_kw={'linewidth': 0.6, 'ecolor': '#333333'})  # fmt: skip
    labels = [f'{case["group"].removeprefix(shortened).strip(", ")}, {case["name"]}' for case in cases]
    axes.set_yticks(range(len(cases)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color='#333333', linewidth=0.6)
    axes.set_xlabel('multiple of plain TCP')
    axes.set_title(title)
    axes.legend(fontsize=8)
    figure.savefig(path, bbox_inches='tight', metadata={'Date': None})
    pyplot.close(figure)


def _table(cases: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        '| work | unit | plain | unix | unchecked | sockaccel | redirected | CPU | goals | reached |',
        '|---|---|---|---|---|---|---|---|---|---|',
    ]
    for case in cases:
        found = case['ways']
        subject = found[case['subject']]
        cells = [_figure(found.get(way)) for way in (ways.PLAIN, ways.UNIX, ways.UNCHECKED)] + [_figure(subject)]
        share = '' if subject['share'] is None else f'{100 * subject["share"]:.0f} %'
        cpu = ' / '.join(_cpu(found.get(way)) for way in (case['subject'], ways.PLAIN))
        cells = [f'{case["group"]}, {case["name"]}', case['unit'], *cells, share, cpu]
        cells += [', '.join(text for text, _reached in _compared(case)), _of_all(_reached_in(case))]
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows) + '\n'


def _figure(summary: Mapping[str, Any] | None) -> str:
    if not summary:
        return ''
    spread = 50 * (summary['highest'] - summary['lowest']) / (summary['median'] or 1)
    value = summary['median']
    return f'{value:,.0f} ±{spread:.0f} %' if value >= 100 else f'{value:.3g} ±{spread:.0f} %'


def _cpu(summary: Mapping[str, Any] | None) -> str:
    if not summary or summary['client_us'] is None:
        return ''
    return f'{summary["client_us"] + summary["server_us"]:.3g}'


def _compared(case: Mapping[str, Any]) -> list[tuple[str, bool | None]]:
    """Each ratio in words, and whether its goal was reached, None if it has none."""
    parts: list[tuple[str, bool | None]] = []
    for way in case['ways']:
        found = samples.ratio(case, way)
        if way != case['subject'] and found is not None:
            goal = case['goals'].get(way)
            parts.append(_judged(f'{found:.2f} × {way}', '≥', goal, reached=goal is None or found >= goal))
    share, goal = case['ways'][case['subject']]['share'], case.get('share_goal')
    if goal is not None:
        parts.append(_judged(f'{100 * (share or 0):.0f} % redirected', '>', f'{100 * goal:g} %',
                             reached=(share or 0) > goal))  # fmt: skip
    return parts


def _judged(text: str, sign: str, goal: object, *, reached: bool) -> tuple[str, bool | None]:
    if goal is None:
        return text, None
    text = f'{text} ({sign} {goal})'
    return text if reached else f'**{text}**', reached


def _reached_in(case: Mapping[str, Any]) -> list[bool]:
    return [reached for _text, reached in _compared(case) if reached is not None]


def _of_all(reached: Sequence[bool]) -> str:
    if all(reached):
        return 'yes' if reached else ''
    return f'{sum(reached)} of {len(reached)}' if any(reached) else 'no'


def _daemon(figures: Mapping[str, Any]) -> str:
    rows = ['| the daemon | measured | goal | reached |', '|---|---|---|---|']
    for name, figure in figures.items():
        value, goal = figure['value'], figure['goal']
        text = f'{value:,.0f}' if value >= 100 else f'{value:.3g}'
        reached = _reached_by(figure)
        if not all(reached):
            text = f'**{text}**'
        wanted = '' if goal is None else f'at most {goal:g}'
        rows.append(f'| {name} | {text} | {wanted} | {_of_all(reached)} |')
    return '\n'.join(rows) + '\n'


def _reached_by(figure: Mapping[str, Any]) -> list[bool]:
    return [] if figure['goal'] is None else [figure['value'] <= figure['goal']]


def _summary(results: Mapping[str, Any]) -> str:
    """How many goals were reached, and what could not be measured at all."""
    reached = [one for case in results['cases'] for one in _reached_in(case)]
    reached += [one for figure in results.get('daemon', {}).values() for one in _reached_by(figure)]
    lines = [f'{sum(reached)} of {len(reached)} goals were reached.']
    if failed := results.get('failed'):
        lines += ['', 'Not measured, because it failed:', '']
        lines += [f'* {name}: {text.splitlines()[0]}' for name, text in failed.items()]
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('results', type=Path)
    parser.add_argument('directory', type=Path)
    options = parser.parse_args()
    write(json.loads(options.results.read_text()), options.directory)
