# SPDX-License-Identifier: GPL-2.0-or-later
"""Bars of how many times as fast as plain TCP something is: small SVG files, a line for each case."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bench import ways

COLOURS = {ways.PLAIN: '#8c8c8c', ways.UNIX: '#4c9f70', ways.UNCHECKED: '#d1a054', ways.SOCKACCEL: '#2f6db5'}
# In pixels.
_LABELS, _WIDTH, _BAR, _GAP, _TOP = 370, 480, 5, 5, 44


def bars(title: str, cases: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """An SVG document. cases: (label, way -> summary); what is drawn is the median of a way by that of plain TCP,
    and a thin line from the lowest to the highest round.
    """
    names = [way for way in COLOURS if any(way in found for _label, found in cases)]
    highest = max(
        summary['highest'] / found[ways.PLAIN]['median'] for _label, found in cases for summary in found.values()
    )
    scale = _WIDTH / highest
    each = len(names) * _BAR + _GAP
    height = _TOP + each * len(cases) + 20
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABELS + _WIDTH + 20}" height="{height}" '
        'font-family="sans-serif" font-size="10">',
        '<style>' + ''.join(f'.{way}{{fill:{COLOURS[way]}}}' for way in names) + 'path{stroke:#333}</style>',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LABELS}" y="14" font-size="13">{escape(title)}, as a multiple of plain TCP</text>',
        _legend(names),
    ]
    lines += [_case(_TOP + each * row, label, found, names, scale) for row, (label, found) in enumerate(cases)]
    lines += [_axis(number, scale, height) for number in range(int(highest) + 1)]
    return '\n'.join([*lines, '</svg>\n'])


def _legend(names: Sequence[str]) -> str:
    return ''.join(
        f'<rect class="{way}" x="{_LABELS + 90 * index}" y="24" width="10" height="10"/>'
        f'<text x="{_LABELS + 90 * index + 14}" y="33">{way}</text>'
        for index, way in enumerate(names)
    )


def _case(top: int, label: str, found: Mapping[str, Any], names: Sequence[str], scale: float) -> str:
    plain = found[ways.PLAIN]['median']
    parts = [f'<text x="{_LABELS - 6}" y="{top + 12}" text-anchor="end">{escape(label)}</text>']
    for index, way in enumerate(names):
        if way not in found:
            continue
        length, low, high = (scale * found[way][figure] / plain for figure in ('median', 'lowest', 'highest'))
        y = top + index * _BAR
        parts.append(f'<rect class="{way}" x="{_LABELS}" y="{y}" width="{length:.0f}" height="{_BAR - 1}"/>')
        parts.append(f'<path d="M{_LABELS + low:.0f} {y + 2}H{_LABELS + high:.0f}"/>')
    return ''.join(parts)


def _axis(number: int, scale: float, height: int) -> str:
    x = _LABELS + scale * number
    return (
        f'<path d="M{x:.0f} {_TOP - 4}V{height - 14}" opacity=".4"/>'
        f'<text x="{x:.0f}" y="{height - 4}" text-anchor="middle">{number}</text>'
    )
