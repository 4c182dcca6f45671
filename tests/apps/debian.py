# SPDX-License-Identifier: GPL-2.0-or-later
"""Source packages of the distribution, for the tests that come with them."""

import subprocess
import tempfile
from pathlib import Path

import pytest

# The same archives as those of the installed packages, whatever mirror the machine uses.
_ARCHIVE = '$(REPO_URI) $(RELEASE) $(COMPONENT)'


def source(package: str, cache: Path) -> Path:
    """The unpacked source of an installed binary package, fetched once per cache.

    Its version is the installed one; where the archive does not have that, the one that it has.
    """
    unpacked = cache / package
    if unpacked.exists():
        return unpacked
    with tempfile.TemporaryDirectory(prefix='sockaccel-source-') as name:
        here = Path(name)
        # apt fetches as a user of its own.
        here.chmod(0o755)
        apt, releases = _apt(here)
        installed = _output('dpkg-query', '--show', '--showformat=${source:Package}=${source:Version}', package)
        wanted = [installed, *(f'{installed.partition("=")[0]}/{release}' for release in releases)]
        complaints = []
        for version in wanted:
            command = [*apt, 'source', '--only-source', version]
            done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
            found = [path for path in here.iterdir() if (path / 'debian').is_dir()]
            if done.returncode == 0 and found:
                _output('cp', '--archive', str(found[0]), str(unpacked))
                return unpacked
            complaints.append(f'{version}: {done.stderr.strip()}')
    pytest.fail('\n'.join(['no source package could be fetched', *complaints]))


def _apt(here: Path) -> tuple[list[str], list[str]]:
    """An apt-get that knows sources alone and changes nothing of the system's, and the releases it knows."""
    targets = _output('apt-get', 'indextargets', '--format', _ARCHIVE, 'Created-By: Packages', 'Origin: Debian')
    archives = sorted(set(targets.splitlines()))
    keys = '[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'
    (here / 'sources.list').write_text(''.join(f'deb-src {keys} {archive}\n' for archive in archives))
    (here / 'lists').mkdir()
    apt = [
        'apt-get', '--quiet', '--quiet', '-o', f'Dir::Etc::sourcelist={here}/sources.list',
        '-o', 'Dir::Etc::sourceparts=/dev/null', '-o', f'Dir::State::lists={here}/lists',
        '-o', f'Dir::Cache={here}',
    ]  # fmt: skip
    _output(*apt, 'update')
    return apt, [archive.split()[1] for archive in archives]


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f'{" ".join(command)}: {done.stderr}')
    return done.stdout.strip()
