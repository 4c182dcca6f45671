# SPDX-License-Identifier: GPL-2.0-or-later
"""The loader: two processes that compile half of the BPF programs each, and what the daemon gets from them."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockaccel.errors import LoaderEnded
from sockaccel.kernel import abi, libbpf, loader, programs
from tests.support.harness import ROOT

LIMIT = 1000


@contextlib.contextmanager
def loaded(maps: dict[str, int] | None = None) -> Iterator[dict[str, int]]:
    fds = asyncio.run(programs.load(LIMIT, maps))
    try:
        yield fds
    finally:
        for fd in fds.values():
            os.close(fd)


def identity(fd: int, kind: str) -> int:
    found = re.search(rf'^{kind}_id:\t(\d+)$', Path(f'/proc/self/fdinfo/{fd}').read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def maps_of(program: int) -> set[int]:
    shown = subprocess.run(
        ['bpftool', '-j', 'prog', 'show', 'id', str(identity(program, 'prog'))], stdout=subprocess.PIPE, check=True
    ).stdout
    return set(json.loads(shown).get('map_ids', []))


def load_in(tree: Path) -> str:
    """What the daemon would say; run on its own, since the loader takes its sources from beside the package."""
    script = f'import asyncio; from sockaccel.kernel import programs; asyncio.run(programs.load({LIMIT}))'
    ended = subprocess.run(
        [sys.executable, '-c', script],
        cwd=tree,
        env={**os.environ, 'PYTHONPATH': str(tree)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert ended.returncode
    return ended.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ('sockaccel', 'bpf'):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__'))
    return tmp_path


@pytest.fixture(params=[1, 2], ids='by {} CPU'.format)
def cpus(request: pytest.FixtureRequest) -> Iterator[None]:
    """One process compiles all where there is one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[: request.param])
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures('cpus')
def test_all_programs_work_with_the_same_maps() -> None:
    with loaded() as fds:
        assert set(fds) == {*loader.PROGRAMS, *loader.MAPS}
        assert not any(os.get_inheritable(fd) for fd in fds.values())
        ours = {identity(fds[name], 'map') for name in loader.MAPS}
        for name in loader.PROGRAMS:
            assert maps_of(fds[name]) <= ours, name
        shared = {identity(fds[name], 'map') for name in ('sa_members', 'sa_peers', 'sa_targets')}
        assert shared <= maps_of(fds['sockaccel_msg'])
        assert shared <= maps_of(fds['bpf_iter__bpf_sk_storage_map'])


def test_the_compiler_gives_structures_the_sizes_that_python_expects() -> None:
    u32, u64 = 4, 8
    expected = {
        'sa_members': (abi.PAIR_KEY.size, u32),
        'sa_peers': (abi.PAIR_KEY.size, None),
        'sa_listeners': (abi.LISTENER_KEY.size, None),
        'sa_served': (abi.LISTENER_KEY.size, u32),
        'sa_found': (abi.PAIR_KEY.size, None),
        'sa_cgroups': (u64, u32),
        'sa_targets': (u32, abi.TARGET.size),
        'sa_counters': (u32, u64 * len(abi.COUNTERS)),
        'sa_settings': (u32, abi.SETTINGS.size),
        'sa_rules': (u32, abi.RULES.size),
        'sa_listing': (u32, abi.EVENT.size),
    }
    with loaded() as fds:
        for name, (key_size, value_size) in expected.items():
            shown = libbpf.map_sizes(fds[name])
            assert shown == (key_size, value_size or shown[1]), name


@pytest.mark.usefixtures('cpus')
def test_new_programs_take_the_maps_of_an_earlier_process() -> None:
    with loaded() as first:
        maps = {name: first[name] for name in loader.MAPS}
        ours = {identity(fd, 'map') for fd in maps.values()}
        with loaded(maps) as second:
            assert set(second) == set(loader.PROGRAMS)
            for name, fd in second.items():
                assert identity(fd, 'prog') != identity(first[name], 'prog')
                assert maps_of(fd) <= ours, name


@pytest.mark.parametrize('source', ['verdict.c', 'walk.c'])
def test_what_cannot_be_compiled_is_said(tree: Path, source: str) -> None:
    with (tree / 'bpf' / source).open('a') as broken:
        broken.write('int broken(void) { return undeclared; }\n')
    assert 'cannot compile the BPF programs or make their maps' in load_in(tree)


@pytest.mark.parametrize(
    ('source', 'function'), [('verdict.c', 'sockaccel_msg'), ('find_sockets.c', 'bpf_iter__task_file')]
)
def test_what_the_kernel_does_not_take_is_said(tree: Path, source: str, function: str) -> None:
    path = tree / 'bpf' / source
    refused = r'\1\tif (*(volatile u64 *)8)\n\t\treturn 0;\n'
    text, number = re.subn(rf'(\nint {function}\([^)]*\)\n{{\n)', refused, path.read_text())
    assert number == 1
    path.write_text(text)
    assert f'does not take the BPF program "{function}"' in load_in(tree)


def change_loader(tree: Path, lines: str) -> None:
    """Let the loader run these lines when it is imported as one."""
    with (tree / 'sockaccel/kernel/loader.py').open('a') as file:
        file.write(f"\nif sys.argv[0] == '-c' and sys.flags.isolated:\n{textwrap.indent(lines, '    ')}")


def test_kernels_that_refuse_the_cast_get_probes(tree: Path) -> None:
    """bpf_rdonly_cast() under a number that is none is refused when it is called, and the loader does without."""
    change_loader(
        tree,
        'found = offsets.defines\noffsets.defines = lambda: found() | {"KFUNC_rdonly_cast": 1}\n',
    )
    script = (
        'import asyncio; from sockaccel.kernel import loader, programs; '
        f'assert set(asyncio.run(programs.load({LIMIT}))) == {{*loader.PROGRAMS, *loader.MAPS}}'
    )
    environment = {**os.environ, 'PYTHONPATH': str(tree)}
    subprocess.run([sys.executable, '-c', script], cwd=tree, env=environment, check=True)


def test_half_a_loader_that_dies_is_said(tree: Path) -> None:
    change_loader(tree, 'fork = os.fork\nos.fork = lambda: fork() or os._exit(9)\n')
    assert 'half of the BPF programs has ended: is there enough memory?' in load_in(tree)


def test_a_loader_that_dies_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'executable', '/bin/false')
    with pytest.raises(LoaderEnded, match='ended with status 1 and no answer'):
        asyncio.run(programs.load(LIMIT))
