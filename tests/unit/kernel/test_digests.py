# SPDX-License-Identifier: GPL-2.0-or-later
"""Which change of the sources lets a new daemon take over the maps of an earlier one, and which does not."""

import re
import shutil
from pathlib import Path

import pytest

from sockaccel.kernel import lead_programs, offsets, programs, sources
from sockaccel.kernel.programs import Digests

SOURCE = sources.directory()
ABI = sorted(path.name for path in (SOURCE / 'abi').glob('*.h'))
LIMIT = 1000


def declared(pattern: str) -> list[tuple[str, str]]:
    """File and name of what maps may be made of."""
    files = [
        *sorted((SOURCE / 'abi').glob('*.h')),
        SOURCE / 'lib' / 'types.h',
        SOURCE / 'lib' / 'maps.c',
        SOURCE / lead_programs.LAYOUT,
    ]
    return [
        (str(path.relative_to(SOURCE)), name)
        for path in files
        for name in re.findall(pattern, path.read_text(), re.MULTILINE)
    ]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(SOURCE, tmp_path / 'bpf')
    return tmp_path / 'bpf'


def changed(tree: Path, name: str, pattern: str, replacement: str) -> Digests:
    text, count = re.subn(pattern, replacement, (tree / name).read_text(), count=1, flags=re.MULTILINE)
    assert count == 1, (name, pattern)
    (tree / name).write_text(text)
    return digests(name, tree)


def digests(name: str, tree: Path = SOURCE) -> Digests:
    """Of the objects in which this source is: those that lead connections to proxies have maps of their own."""
    if name in ('abi/lead.h', lead_programs.LAYOUT):
        return lead_programs.digests(tree)
    return programs.digests(LIMIT, tree)


def test_the_same_sources_have_the_same_digests(tree: Path) -> None:
    assert programs.digests(LIMIT, tree) == programs.digests(LIMIT)


@pytest.mark.parametrize(('name', 'constant'), declared(r'^#define (\w+) [0-9]+$'))
def test_every_limit_is_in_the_layout(tree: Path, name: str, constant: str) -> None:
    before = digests(name)
    after = changed(tree, name, rf'^(#define {constant} )[0-9]+$', r'\g<1>7')
    assert after.layout != before.layout
    assert after.code != before.code


@pytest.mark.parametrize(('name', 'struct'), declared(r'^struct (\w+) \{$'))
def test_every_struct_is_in_the_layout(tree: Path, name: str, struct: str) -> None:
    after = changed(tree, name, rf'^struct {struct} \{{$', rf'struct {struct} {{\n\t__u64 another;')
    assert after.layout != digests(name).layout


@pytest.mark.parametrize(('name', 'enum'), declared(r'^enum (\w+) \{$'))
def test_every_enum_is_in_the_layout(tree: Path, name: str, enum: str) -> None:
    after = changed(tree, name, rf'^enum {enum} \{{$', rf'enum {enum} {{\n\tANOTHER,')
    assert after.layout != digests(name).layout


@pytest.mark.parametrize(
    'change', [(r'X\(NOT_LOCAL, CONNECTION', 'X(NOT_LOCAL, MESSAGE'), (r'X\(LONELY', 'X(ALONE')]
)
def test_counters_are_in_the_layout(tree: Path, change: tuple[str, str]) -> None:
    assert changed(tree, 'abi/counters.h', *change).layout != programs.digests(LIMIT).layout


def test_the_limit_of_connections_is_in_the_layout() -> None:
    assert programs.digests(LIMIT).layout != programs.digests(LIMIT + 1).layout


@pytest.mark.parametrize(
    ('name', 'pattern', 'replacement'),
    [
        ('abi/flow.h', r'^struct flow', '/* Another comment. */\nstruct flow'),
        ('abi/counters.h', r'"its target was disabled"', '"its target is off"'),
        ('verdict.c', r'^static', '/* Another comment. */\nstatic'),
        ('lib/targets.c', r'return 0;', 'return 1;'),
    ],
)
def test_words_and_code_are_not_in_the_layout(tree: Path, name: str, pattern: str, replacement: str) -> None:
    before, after = programs.digests(LIMIT), changed(tree, name, pattern, replacement)
    assert after.layout == before.layout
    assert after.code != before.code


def test_what_the_maps_are_made_of_depends_on_no_kernel() -> None:
    """The values for a kernel are not in the layout, so none may be used there."""
    text = sources.layout_text(SOURCE) + sources.layout_text(SOURCE, lead_programs.LAYOUT)
    assert not re.search(r'\b(?:OFFSET|SHIFT|MASK|KFUNC|TYPE)_', text)
    assert not any(re.search(rf'\b{name}\b', text) for name in offsets.ENUMERATORS)
    assert all(f'"abi/{name}"' in text or f'"{name}"' in text for name in ABI)
