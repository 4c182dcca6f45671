# SPDX-License-Identifier: GPL-2.0-or-later
"""Style and types are tests like others."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.harness import ROOT

BIN = Path(sys.executable).parent
TOOLS = ['tools/generate-abi', 'tools/generate-completions', 'tools/generate-translations']
PYTHON = ['sockaccel', 'tests', 'bench', 'demo', *TOOLS]


def tracked(*patterns: str) -> list[str]:
    """Files that git tracks or would add; where there is no git (a source package), all that match."""
    if (ROOT / '.git').exists():
        # An ordinary user may look at a checkout of root's.
        command = ['git', '-c', f'safe.directory={ROOT}', 'ls-files', '--cached', '--others', '--exclude-standard']
        command += ['--', *patterns]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split('\n')
        return sorted(name for name in listed if name and (ROOT / name).exists())
    found = {path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(f'**/{pattern}')}
    return sorted(str(path) for path in found if path.parts[0] not in ('.venv', 'build'))


def run(*command: str) -> None:
    """Fail with what it says. What is not installed is skipped, which CI does not accept."""
    if not shutil.which(command[0]):
        pytest.skip(f'{command[0]} is not installed')
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.fail(f'{command[0]}:\n{result.stdout}{result.stderr}', pytrace=False)


def cache(name: str) -> Path:
    """A directory of the checkout's, or one that does not last where we may not write there."""
    return (
        ROOT / name if os.access(ROOT, os.W_OK) else Path(tempfile.gettempdir(), f'sockaccel-{os.getuid()}', name)
    )


def test_ruff_check() -> None:
    run(str(BIN / 'ruff'), 'check', f'--cache-dir={cache(".ruff_cache")}', *PYTHON)


def test_ruff_format() -> None:
    run(str(BIN / 'ruff'), 'format', f'--cache-dir={cache(".ruff_cache")}', '--check', *PYTHON)


def test_mypy() -> None:
    # Otherwise two scripts would be two modules of the name __main__.
    run(str(BIN / 'mypy'), f'--cache-dir={cache(".mypy_cache")}', '--scripts-are-modules', *PYTHON)


def test_clang_format() -> None:
    run('clang-format', '--dry-run', '--Werror', *tracked('bpf/*.c', 'bpf/*.h', 'tests/*.c'))


def test_shellcheck() -> None:
    scripts = [
        'tools/setup',
        'tools/release',
        '.ci/run',
        'packaging/build-deb',
        'packaging/completions/sockaccelctl',
    ]
    scripts += tracked('packaging/debian/tests/installed')
    run('shellcheck', *scripts)


def test_every_source_names_its_licence() -> None:
    for name in tracked('*.py', '*.c', '*.h', 'Makefile', 'tools/*', '.ci/*'):
        text = (ROOT / name).read_text()
        assert not text.strip() or 'SPDX-License-Identifier: GPL-2.0-or-later' in text, name


def test_type_checks_are_switched_off_nowhere() -> None:
    for name in tracked('*.py'):
        if name != 'tests/static/test_linters.py':
            assert not re.search(r'#\s*(type:|mypy:)\s*ignore', (ROOT / name).read_text()), name
