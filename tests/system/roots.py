# SPDX-License-Identifier: GPL-2.0-or-later
"""Root file systems of Debian releases, made by mmdebstrap once and kept in build/cache."""

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.harness import ROOT

CACHE = ROOT / 'build' / 'cache'
MIRROR = 'http://deb.debian.org'
# What the package depends on, what its tests and its build need, and the tools that judge it. A machine has no
# network, so that nothing else can slip in.
_PACKAGES = """
    systemd systemd-sysv dbus-daemon polkitd libbpf1 python3 python3-bpfcc python3-dbus-next python3-sdnotify
    python3-structlog bpftool iproute2 kmod man-db procps python3-pytest python3-pytest-timeout autopkgtest lintian
    dpkg-dev debhelper dh-python pkgconf pybuild-plugin-pyproject python3-all python3-setuptools
""".split()


@dataclass(frozen=True)
class Release:
    """A Debian release and the packages that only it has."""

    name: str
    packages: tuple[str, ...]

    def sources(self) -> str:
        return (
            f'deb {MIRROR}/debian {self.name} main\n'
            f'deb {MIRROR}/debian {self.name}-updates main\n'
            f'deb {MIRROR}/debian-security {self.name}-security main\n'
        )


RELEASES = (
    Release('bookworm', ('dbus', 'systemd')),
    Release('trixie', ('dbus-broker', 'systemd-dev')),
)


def root(release: Release, kind: str = '', more: tuple[str, ...] = ()) -> Path:
    """The directory of a release's root, made if it is not in the cache. Raises CalledProcessError.

    kind: '' for the usual one, or the name of one with `more` packages.
    """
    packages = sorted({*_PACKAGES, *release.packages, *more})
    digest = hashlib.sha256(f'{packages}{release.sources()}'.encode()).hexdigest()[:12]
    name = f'{kind}-{release.name}' if kind else release.name
    directory = CACHE / f'{name}-{digest}'
    if not directory.exists():
        for old in CACHE.glob(f'{name}-*'):
            shutil.rmtree(old)
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = directory.with_suffix('.unfinished')
        subprocess.run(
            [
                'mmdebstrap', '--quiet', '--variant=minbase', f'--include={",".join(packages)}',
                # A machine without an id is at its first boot, and enables every unit.
                '--customize-hook=echo 5ac0cace15ac0cace15ac0cace15ac0c >"$1/etc/machine-id"',
                '--customize-hook=echo sockaccel-test >"$1/etc/hostname"',
                '--dpkgopt=path-exclude=/usr/share/locale/*',
                release.name, str(unfinished), '-',
            ],
            input=release.sources(), text=True, check=True,
        )  # fmt: skip
        unfinished.rename(directory)
    return directory
