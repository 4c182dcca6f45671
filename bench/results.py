# SPDX-License-Identifier: GPL-2.0-or-later
"""The file of results: JSON with a line for each case, so that a new run changes no more lines than that."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.samples import Sample, summary

_FIGURES = ('rate', 'client_us', 'server_us', 'share')
# Far more than a round repeats.
_DIGITS = 5


def read(path: Path) -> dict[str, Any]:
    """What `write()` wrote, with the medians computed again. Raises OSError, ValueError."""
    found: dict[str, Any] = json.loads(path.read_text())
    for case in found['cases']:
        case['ways'] = {way: summary(_samples(columns)) for way, columns in case['ways'].items()}
    return found


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Put results into a file, in the place of what it held. Raises OSError."""
    cases = [
        {**case, 'ways': {way: _columns(found['samples']) for way, found in case['ways'].items()}}
        for case in results['cases']
    ]
    path.write_text('{\n' + ',\n'.join(_lines({**results, 'cases': cases})) + '\n}\n')


def _lines(results: Mapping[str, Any]) -> list[str]:
    parts = []
    for name, value in results.items():
        if isinstance(value, list) and value:
            inside = ',\n'.join(f'  {_line(each)}' for each in value)
            parts.append(f' {_line(name)}: [\n{inside}\n ]')
        elif isinstance(value, dict) and value:
            inside = ',\n'.join(f'  {_line(key)}: {_line(each)}' for key, each in value.items())
            parts.append(f' {_line(name)}: {{\n{inside}\n }}')
        else:
            parts.append(f' {_line(name)}: {_line(value)}')
    return parts


def _line(value: object) -> str:
    return json.dumps(_rounded(value), ensure_ascii=False)


def _rounded(value: object) -> object:
    if isinstance(value, float):
        rounded = float(f'{value:.{_DIGITS}g}')
        return int(rounded) if rounded.is_integer() else rounded
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def _columns(samples: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """figure -> its value in each round; a figure that is not known is left out."""
    columns = {figure: [sample[figure] for sample in samples] for figure in _FIGURES}
    return {figure: values for figure, values in columns.items() if any(value is not None for value in values)}


def _samples(columns: Mapping[str, list[Any]]) -> list[Sample]:
    rounds = len(columns['rate'])
    values = [columns.get(figure, [None] * rounds) for figure in _FIGURES]
    return [Sample(*of_round) for of_round in zip(*values, strict=True)]
