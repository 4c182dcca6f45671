# SPDX-License-Identifier: GPL-2.0-or-later
"""What the worker measured: read, compared, kept in files."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.catalogue import Case, Observation

WAYS = ('plain', 'sockaccel', 'unchecked')
# Of the networks but loopback, see networks.py.
ACROSS = tuple(f'{way}-{network}' for way in ('plain', 'sockaccel') for network in ('bridge', 'dnat'))

Results = dict[Case, 'Result']


@dataclass(frozen=True)
class Result:
    """One case, run one way."""

    case: Case
    kernel: str
    seconds: float
    observation: Observation
    line: str

    @classmethod
    def parse(cls, line: str) -> 'Result':
        fields = json.loads(line)
        case = Case(fields['behaviour'], fields['family'], fields['reader'])
        return cls(case, fields['kernel'], fields['seconds'], fields['observation'], line)

    @property
    def seen(self) -> Observation:
        """What is compared: everything but the figures."""
        return {key: value for key, value in self.observation.items() if key != 'figures'}

    @property
    def usable(self) -> bool:
        """False if the observation says that the behaviour itself went wrong, not what it saw."""
        return not {'error', 'died', 'hang'} & self.observation.keys()

    @property
    def warm(self) -> list[list[str]]:
        """For each warmed pair the path that each direction took at the end of the warm-up."""
        ways: list[list[str]] = self.observation.get('figures', {}).get('warm', [])
        return ways


def parse(lines: Iterable[str]) -> Results:
    return {result.case: result for result in map(Result.parse, lines)}


def load(directory: Path) -> dict[str, Results]:
    """The ways for which the directory has a file of results."""
    files = {way: directory / f'{way}.jsonl' for way in (*WAYS, *ACROSS)}
    return {way: parse(file.read_text().splitlines()) for way, file in files.items() if file.exists()}


def save(directory: Path, way: str, results: Results) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    lines = [result.line for _, result in sorted(results.items())]
    (directory / f'{way}.jsonl').write_text('\n'.join(lines) + '\n')


def differences(one: Result, other: Result) -> dict[str, tuple[object, object]]:
    """What the two observations do not have in common: for each key both values, None for a missing one."""
    keys = [*one.seen, *(key for key in other.seen if key not in one.seen)]
    pairs = {key: (one.seen.get(key), other.seen.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
