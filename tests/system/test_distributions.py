# SPDX-License-Identifier: GPL-2.0-or-later
"""The package on Debian 12 with dbus-daemon and on Debian 13 with dbus-broker."""

import os
from pathlib import Path

import pytest

from tests.support.patience import LONG_S
from tests.system.container import Container
from tests.system.roots import Release

# The first test of a release builds the package, and may make the release's root before.
pytestmark = pytest.mark.timeout(3 * LONG_S)
# What lintian says of a package without these, by release. An override in the package would not do: one release's
# lintian does not know the other's tag, and would complain of it.
MISSING = {
    # Unit names, the descriptor store and the journal are systemd's; elsewhere the daemon runs in the foreground.
    'bookworm': 'package-supports-alternative-init-but-no-init.d-script',
    # AppStream wants a homepage for the page of Cockpit, and the project has none to name.
    'trixie': 'appstream-metadata-validation-failed',
}


def test_lintian_is_silent(release: Release, machine: Container) -> None:
    said = machine.run(
        'sh',
        '-c',
        f'lintian --allow-root --pedantic --display-info --suppress-tags={MISSING[release.name]} /out/*.changes',
        check=False,
    )
    assert said.stdout.strip() == ''
    assert said.returncode == 0


def test_package_has_what_make_install_installs(packages: Path, machine: Container) -> None:
    command = 'make --silent --directory /src install DESTDIR=/root/installed'
    machine.run('sh', '-c', f'{command} ZSHDIR=/usr/share/zsh/vendor-completions')
    installed = machine.run('sh', '-c', 'cd /root/installed && find . -type f').stdout.splitlines()
    packaged, of_debian = set(), {'./usr/share/lintian/overrides/sockaccel-cockpit'}
    for package in ('sockaccel', 'sockaccel-cockpit'):
        name = next(packages.glob(f'{package}_*.deb')).name
        listed = machine.run('sh', '-c', f'dpkg-deb --fsys-tarfile /out/{name} | tar --list').stdout.splitlines()
        packaged |= {path.removesuffix('.gz') for path in listed if not path.endswith('/')}
        of_debian |= {f'./usr/share/doc/{package}/{name}' for name in ('changelog', 'copyright')}
    assert packaged == {*installed, *of_debian}


def test_autopkgtest(machine: Container) -> None:
    """DEP-8: apt installs the package, then tests/installed/ run."""
    machine.run('cp', '--recursive', '/src', '/root/tree')
    # Since Debian 13 the null runner does not take the machine for one that is there for the test.
    tested = machine.run(
        'sh', '-c',
        'autopkgtest --no-built-binaries --ignore-restrictions=isolation-machine --output-dir /root/results '
        '/root/tree /out/*.deb -- null',
        check=False,
    )  # fmt: skip
    print(tested.stdout)
    # 8: there were no tests, or they were skipped.
    assert tested.returncode == 0, tested.stdout[-20000:]


def test_package_comes_and_goes(packages: Path, machine: Container) -> None:
    package = next(packages.glob('sockaccel_*.deb')).name
    machine.run('apt-get', 'install', '--yes', f'/out/{package}')
    machine.run('cp', '--recursive', '/src', '/run/src')
    tested = machine.run(
        'env', '--chdir=/run/src', f'SOCKACCEL_PACKAGE=/out/{package}', f'CI={os.environ.get("CI", "")}',
        'python3', '-m', 'pytest', '-p', 'no:cacheprovider', 'tests/installed/test_package.py',
        check=False,
    )  # fmt: skip
    print(tested.stdout)
    assert tested.returncode == 0, tested.stdout[-20000:]
