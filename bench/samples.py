# SPDX-License-Identifier: GPL-2.0-or-later
"""Rounds of measurements, and what is said of them: medians, their spread, ratios."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Sample:
    """rate: what counts, more is better; *_us: CPU time per operation of either side; share: of all bytes
    that did not go by TCP. None: not known.
    """

    rate: float
    client_us: float | None = None
    server_us: float | None = None
    share: float | None = None


@dataclass
class Case:
    """One kind of work. unit: of its rate; goals: way -> ratio to that way that is wanted of sockaccel.

    share_goal: so much of the bytes, and more, is wanted to go not by TCP; None for any.
    """

    group: str
    name: str
    unit: str
    ways: Sequence[str]
    run: Callable[[Any], Sample]
    goals: Mapping[str, float] = field(default_factory=dict)
    subject: str = 'sockaccel'
    share_goal: float | None = None


def measure(case: Case, ways: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """Run a case by every of its ways, in turn, round after round; the order rotates from round to round."""
    samples: dict[str, list[Sample]] = {name: [] for name in case.ways}
    for number in range(rounds):
        shift = number % len(case.ways)
        for name in [*case.ways[shift:], *case.ways[:shift]]:
            samples[name].append(case.run(ways[name]))
    return {
        'group': case.group,
        'name': case.name,
        'unit': case.unit,
        'subject': case.subject,
        'goals': dict(case.goals),
        'share_goal': case.share_goal,
        'ways': {name: summary(of) for name, of in samples.items()},
    }


def summary(samples: list[Sample]) -> dict[str, Any]:
    """The median of each figure, of the rate also the lowest and the highest round, and the samples themselves."""
    rates = [sample.rate for sample in samples]
    found: dict[str, Any] = {'median': median(rates), 'lowest': min(rates), 'highest': max(rates)}
    for figure in ('client_us', 'server_us', 'share'):
        known = [value for sample in samples if (value := getattr(sample, figure)) is not None]
        found[figure] = median(known) if known else None
    return found | {'samples': [asdict(sample) for sample in samples]}


def ratio(result: Mapping[str, Any], way: str) -> float | None:
    """The subject's median by that of another way, None where either is missing."""
    ways = result['ways']
    if way not in ways or result['subject'] not in ways or not ways[way]['median']:
        return None
    return float(ways[result['subject']]['median'] / ways[way]['median'])


def line(result: Mapping[str, Any]) -> str:
    """A result in one line."""
    parts = []
    for way, found in result['ways'].items():
        spread = 100 * (found['highest'] - found['lowest']) / (found['median'] or 1)
        part = f'{way} {found["median"]:.4g} ±{spread / 2:.0f}%'
        if found['share'] is not None and found['share'] > 0:
            part += f' ({100 * found["share"]:.0f}% redirected)'
        parts.append(part)
    ratios = [
        f'{times:.2f} × {way}'
        for way in result['ways']
        if way != result['subject'] and (times := ratio(result, way)) is not None
    ]
    return f'{result["group"]}, {result["name"]} [{result["unit"]}]: {"; ".join(parts)} -> {", ".join(ratios)}'
