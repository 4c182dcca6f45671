# SPDX-License-Identifier: GPL-2.0-or-later
"""Which room of the package may import from which, and that no module imports itself by way of others.

Imports inside functions count too: a room that is needed is needed. So do those that only type checkers see.
"""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

from tests.support.harness import ROOT

PACKAGE = ROOT / 'sockaccel'
# Each room may import from these and from itself; `daemon` from all. What is not named is in no room yet.
ROOMS: dict[str, set[str]] = {
    '': set(),
    'errors': set(),
    'unneeded': set(),
    'core': {'errors'},
    'dbus': {'core', 'errors'},
    'kernel': {'core', 'errors'},
    'systemd': {'core', 'dbus', 'errors'},
    'bus': {'', 'core', 'dbus', 'errors'},
    'ctl': {'', 'core', 'dbus', 'errors', 'unneeded'},
    'daemon': {'', 'bus', 'core', 'dbus', 'errors', 'kernel', 'leading', 'systemd'},
    'leading': {'core', 'errors', 'kernel', 'systemd'},
    '__main__': {'daemon', 'unneeded'},
}
# Outside of the standard library; the others may import none.
PACKAGES: dict[str, set[str]] = {
    'core': {'structlog'},
    'dbus': {'dbus_next', 'structlog'},
    'kernel': {'bcc', 'structlog'},
    'systemd': {'sdnotify', 'structlog'},
    'bus': {'structlog'},
    'daemon': {'structlog'},
    'leading': {'structlog'},
}


def modules(package: Path) -> dict[str, Path]:
    """Every module below a package by its dotted name, which begins with the package's."""
    found = {}
    for path in sorted(package.rglob('*.py')):
        parts = list(path.relative_to(package.parent).with_suffix('').parts)
        if parts[-1] == '__init__':
            parts.pop()
        found['.'.join(parts)] = path
    return found


def room(module: str) -> str:
    """'' for the package itself, which has the version alone."""
    return module.split('.')[1] if '.' in module else ''


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """What a module imports, by dotted names: modules of the package, and packages of others."""
    found: set[str] = set()
    inside = name.split('.') if path.name == '__init__.py' else name.split('.')[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = inside[: len(inside) - node.level + 1] if node.level else []
            source = '.'.join([*above, *([node.module] if node.module else [])])
            # `from package import module` imports the module, and the package on the way.
            below = {f'{source}.{alias.name}' for alias in node.names} & known.keys()
            found.update(below or {source})
    top = name.split('.')[0]
    return {each if each.split('.')[0] == top else each.split('.')[0] for each in found}


def violations(package: Path) -> list[str]:
    """Each import that no table allows, in words."""
    known = modules(package)
    found = []
    for name, path in known.items():
        here = room(name)
        if here not in ROOMS:
            found.append(f'{name} is in no room: add "{here}" to ROOMS')
            continue
        for imported in sorted(imports(name, path, known)):
            top = imported.split('.')[0]
            if top != package.name:
                if top not in sys.stdlib_module_names and top not in PACKAGES.get(here, set()):
                    found.append(f'{name} imports {top}, a package that "{here}" may not use')
            elif room(imported) not in ROOMS[here] | {here}:
                found.append(f'{name} imports {imported}, but "{here}" may not import "{room(imported)}"')
    return found


def circle(package: Path) -> list[str]:
    """Modules of which each imports the one before, back to the first; none if there is no such circle."""
    known = modules(package)
    graph = {name: imports(name, path, known) & known.keys() for name, path in known.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as exc:
        return list(exc.args[1])
    return []


def test_rooms_import_only_what_they_may() -> None:
    assert violations(PACKAGE) == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circle(PACKAGE) == []


@pytest.mark.parametrize(
    'name', sorted(name for name in ROOMS if (PACKAGE / name / '__init__.py').exists() and name)
)
def test_a_room_itself_is_empty(name: str) -> None:
    """To import one module of a room must cost nothing else; in the kernel side it delays each cold start."""
    assert (PACKAGE / name / '__init__.py').read_text() == ''


@pytest.mark.parametrize(
    ('module', 'text', 'said'),
    [
        ('core/x.py', 'import sockaccel.kernel.live', 'core.x imports sockaccel.kernel.live'),
        ('core/x.py', 'from sockaccel.kernel import live', 'core.x imports sockaccel.kernel.live'),
        ('core/x.py', 'from sockaccel import kernel', 'core.x imports sockaccel.kernel'),
        ('core/x.py', 'from ..kernel import live', 'core.x imports sockaccel.kernel.live'),
        ('core/x.py', 'from ..kernel.live import Kernel', 'core.x imports sockaccel.kernel.live'),
        ('core/x.py', 'def f():\n    import sockaccel.systemd', 'core.x imports sockaccel.systemd'),
        ('core/x.py', 'if TYPE_CHECKING:\n    from sockaccel.bus import x', 'core.x imports sockaccel.bus'),
        ('core/x.py', 'import dbus_next.aio', 'core.x imports dbus_next'),
        ('core/x.py', 'import sockaccel.daemon', 'core.x imports sockaccel.daemon'),
        ('ctl/x.py', 'import sockaccel.bus', 'ctl.x imports sockaccel.bus'),
        ('errors.py', 'import sockaccel.core', 'errors imports sockaccel.core'),
        ('news/x.py', '', 'sockaccel.news.x is in no room'),
    ],
)
def test_what_is_not_allowed_is_found(tmp_path: Path, module: str, text: str, said: str) -> None:
    """The package anew, with one import that no table has."""
    package = tmp_path / 'sockaccel'
    for name in ('core/a.py', 'kernel/live.py', 'systemd/x.py', 'bus/x.py', 'daemon.py', 'errors.py', module):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).parent.joinpath('__init__.py').touch()
        (package / name).touch()
    (package / 'core/a.py').write_text(
        'import struct\nfrom sockaccel.errors import X\nfrom sockaccel.core import a'
    )
    allowed = violations(package)
    assert [line for line in allowed if 'no room' not in line] == []
    (package / module).write_text(text)
    assert any(said in line for line in violations(package)), violations(package)


def test_a_circle_is_found(tmp_path: Path) -> None:
    package = tmp_path / 'sockaccel'
    (package / 'core').mkdir(parents=True)
    for name, other in (('a', 'b'), ('b', 'c'), ('c', 'a')):
        (package / 'core' / f'{name}.py').write_text(f'def f():\n    from sockaccel.core import {other}\n')
    assert set(circle(package)) == {f'sockaccel.core.{name}' for name in 'abc'}
    (package / 'core' / 'c.py').write_text('')
    assert circle(package) == []
