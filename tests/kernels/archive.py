# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels of Debian's archive: the newest of a line, fetched by apt once and kept in build/cache."""

import functools
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.system.roots import CACHE, MIRROR

# A line of kernels is what its packages' names begin with; REFUSED is the one that must be refused.
REFUSED = '5.10'
LINES = (REFUSED, '6.1', '6.12', '6.18', 'newest')
SERVED = LINES[1:]
_KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
_SUITES = (
    'debian bullseye', 'debian-security bullseye-security', 'debian bookworm', 'debian-security bookworm-security',
    'debian trixie', 'debian-security trixie-security', 'debian trixie-backports', 'debian sid',
)  # fmt: skip
_NAME = re.compile(r'linux-image-(\d+\.\d+)\.(\S+)-cloud-amd64')


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel. release: what uname -r says; version: of the package; directory: boot/ and modules."""

    release: str
    version: str
    directory: Path

    @property
    def image(self) -> Path:
        """The bootable file; from 7.0 on it lies beside the modules."""
        paths = (self.directory / f'boot/vmlinuz-{self.release}', self.modules / 'vmlinuz')
        return next(path for path in paths if path.exists())

    @property
    def modules(self) -> Path:
        """The directory with modules.dep."""
        return next(path for path in self.directory.rglob(f'modules/{self.release}') if path.is_dir())


def newest(line: str) -> Kernel:
    """Raises CalledProcessError, AssertionError where the archive has none."""
    of_line = [name for name in _names() if (found := _NAME.fullmatch(name)) and line in ('newest', found[1])]
    assert of_line, f'no kernel of line {line} in the archive'
    name = max(of_line, key=functools.cmp_to_key(_compare))
    release = name.removeprefix('linux-image-')
    shown = _apt('apt-cache', 'show', '--no-all-versions', name)
    version = re.findall(r'^Version: (\S+)$', shown, re.MULTILINE)[0]
    directory = CACHE / 'kernels' / f'{release}_{version}'
    if not directory.exists():
        # From 7.0 on the image and the modules are packages of their own; others of that release may be gone.
        there = _apt('apt-cache', 'pkgnames', 'linux-').split()
        parts = [part for part in re.findall(rf'\blinux-\w+-{re.escape(release)}', shown) if part in there]
        _unpack([name, *parts], directory)
    return Kernel(release, version, directory)


@functools.cache
def _names() -> list[str]:
    return _apt('apt-cache', 'pkgnames', 'linux-image-').split()


def _unpack(names: list[str], directory: Path) -> None:
    unfinished = directory.with_suffix('.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    _apt('apt-get', 'download', *sorted(set(names)), directory=unfinished)
    for package in unfinished.glob('*.deb'):
        subprocess.run(['dpkg-deb', '--extract', package, unfinished], check=True)
        package.unlink()
    unfinished.rename(directory)


def _compare(one: str, other: str) -> int:
    later = subprocess.run(
        ['dpkg', '--compare-versions', one.split('-', 2)[2], 'gt', other.split('-', 2)[2]], check=False
    )
    return 1 if later.returncode == 0 else -1


def _apt(command: str, *arguments: str, directory: Path | None = None) -> str:
    """Run apt with lists of its own, which leaves the machine's alone."""
    home = _home()
    options = (
        f'Dir::State={home}', f'Dir::State::status={home}/status', f'Dir::Cache={home}',
        f'Dir::Etc::sourcelist={home}/sources.list', 'Dir::Etc::sourceparts=-', 'APT::Architecture=amd64',
        'Acquire::Languages=none', 'APT::Sandbox::User=root',
        # The lists are signed all the same; a mirror that is some weeks behind has kernels enough.
        'Acquire::Check-Valid-Until=false',
    )  # fmt: skip
    return subprocess.run(
        [command, '--quiet', *(word for option in options for word in ('--option', option)), *arguments],
        cwd=directory, check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip


@functools.cache
def _home() -> Path:
    home = CACHE / 'apt'
    if not (home / 'status').exists():
        (home / 'lists' / 'partial').mkdir(parents=True, exist_ok=True)
        (home / 'archives' / 'partial').mkdir(parents=True, exist_ok=True)
        (home / 'sources.list').write_text(
            ''.join(
                f'deb [signed-by={_KEYRING}] {MIRROR}/{suite.split()[0]} {suite.split()[1]} main\n'
                for suite in _SUITES
            )
        )
        (home / 'status').touch()
    return home


def refresh() -> None:
    """Fetch the archive's lists anew. Raises CalledProcessError."""
    _apt('apt-get', 'update')
