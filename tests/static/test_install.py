# SPDX-License-Identifier: GPL-2.0-or-later
"""`make install` puts everything where a distribution's package has it, and needs no root."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sockaccel import __version__
from tests.support.harness import ROOT
from tests.support.poison import Poison

PYTHONDIR, UNITDIR = '/usr/lib/python3/modules', '/usr/lib/systemd/system'
# Beside the Python modules and the BPF sources; tests/system compares the Debian package with make install.
FILES = {
    '/etc/sockaccel/sockaccel.conf',
    '/usr/bin/sockaccelctl',
    '/usr/lib/sockaccel/programs.conf',
    '/usr/lib/systemd/catalog/sockaccel.catalog',
    '/usr/lib/systemd/system/sockaccel-metrics.socket',
    '/usr/lib/systemd/system/sockaccel-metrics@.service',
    '/usr/lib/systemd/system/sockaccel-textfile.service',
    '/usr/lib/systemd/system/sockaccel-textfile.timer',
    '/usr/lib/systemd/system/sockaccel.service',
    '/usr/lib/sysusers.d/sockaccel.conf',
    '/usr/sbin/sockaccel',
    '/usr/share/bash-completion/completions/sockaccelctl',
    '/usr/share/dbus-1/interfaces/org.sockaccel1.Manager.xml',
    '/usr/share/dbus-1/system-services/org.sockaccel1.service',
    '/usr/share/dbus-1/system.d/org.sockaccel1.conf',
    '/usr/share/doc/sockaccel/NEWS',
    '/usr/share/doc/sockaccel/grafana.json',
    '/usr/share/doc/sockaccel/SECURITY.md',
    '/usr/share/doc/sockaccel/sidecar.md',
    '/usr/share/man/man1/sockaccelctl.1',
    '/usr/share/man/man5/org.sockaccel1.5',
    '/usr/share/man/man5/sockaccel.conf.5',
    '/usr/share/man/man8/sockaccel.8',
    '/usr/share/metainfo/org.sockaccel1.cockpit.metainfo.xml',
    '/usr/share/polkit-1/actions/org.sockaccel1.policy',
    '/usr/share/zsh/site-functions/_sockaccelctl',
}


def make(target: str, directory: Path, *variables: str) -> None:
    subprocess.run(
        ['make', '--silent', '--directory', ROOT, target, f'DESTDIR={directory}', f'PYTHONDIR={PYTHONDIR}',
         f'UNITDIR={UNITDIR}', f'PYTHON={sys.executable}', *variables],
        check=True,
    )  # fmt: skip


def install_below(prefix: Path) -> None:
    """Everything, ready to run, with the modules in `prefix`/modules."""
    make(
        'install', Path('/'), 'DESTDIR=', f'PREFIX={prefix}', f'PYTHONDIR={prefix}/modules',
        f'UNITDIR={prefix}/units', f'SYSCONFDIR={prefix}/etc',
    )  # fmt: skip


def found(directory: Path) -> set[str]:
    return {f'/{path.relative_to(directory)}' for path in directory.rglob('*') if not path.is_dir()}


def test_every_file_is_installed_and_no_other(tmp_path: Path) -> None:
    make('install', tmp_path)
    modules = {f'{PYTHONDIR}/{path.relative_to(ROOT)}' for path in (ROOT / 'sockaccel').rglob('*.py')}
    sources = {f'/usr/share/sockaccel/{path.relative_to(ROOT)}' for path in (ROOT / 'bpf').rglob('*.[ch]')}
    page = {
        f'/usr/share/cockpit/sockaccel/{path.name}'
        for pattern in ('*.js', '*.html', '*.css', 'manifest.json')
        for path in (ROOT / 'cockpit').glob(pattern)
    }
    assert len(modules) > 30
    assert len(sources) > 10
    assert len(page) > 10
    assert found(tmp_path) == FILES | modules | sources | page
    programs = {path for path in found(tmp_path) if Path(f'{tmp_path}{path}').stat().st_mode & 0o111}
    assert programs == {'/usr/bin/sockaccelctl', '/usr/sbin/sockaccel'}


@pytest.mark.parametrize('program', ['bin/sockaccelctl', 'sbin/sockaccel'])
def test_installed_program_runs_the_installed_modules_and_no_others(tmp_path: Path, program: str) -> None:
    """Wherever it is started, and in whatever environment: root may do that where others write."""
    prefix = tmp_path / 'prefix'
    install_below(prefix)
    (prefix / 'modules/sockaccel/__init__.py').write_text("__version__ = 'of this test'\n")
    poison = Poison(tmp_path / 'poison')
    command = [str(prefix / program), '--version']
    answer = subprocess.run(
        command, env=poison.environment, cwd=poison.directory, capture_output=True, text=True, check=True
    )
    assert answer.stdout == f'{Path(program).name} of this test\n'
    assert not poison.taken()


def test_a_program_names_the_modules_only_where_the_interpreter_does_not_look(tmp_path: Path) -> None:
    looks = subprocess.run(
        [sys.executable, '-I', '-c', 'import sys; print(sys.path[-1])'], capture_output=True, text=True, check=True
    ).stdout.strip()
    make('install', tmp_path, f'PYTHONDIR={looks}')
    assert 'sys.path' not in (tmp_path / 'usr/sbin/sockaccel').read_text()
    make('install', tmp_path)
    assert f'sys.path.insert(0, "{PYTHONDIR}")\n' in (tmp_path / 'usr/sbin/sockaccel').read_text()


def test_programs_are_those_that_the_python_project_names(tmp_path: Path) -> None:
    make('install', tmp_path)
    with (ROOT / 'pyproject.toml').open('rb') as file:
        scripts = tomllib.load(file)['project']['scripts']
    for name, entry in scripts.items():
        (installed,) = [path for path in found(tmp_path) if path.endswith(f'bin/{name}')]
        assert f'from {entry.replace(":", " import ")}\n' in Path(f'{tmp_path}{installed}').read_text()


def test_unit_follows_the_version_of_systemd_and_the_places(tmp_path: Path) -> None:
    def unit(*variables: str) -> list[str]:
        make('install', tmp_path, *variables)
        return Path(f'{tmp_path}{UNITDIR}/sockaccel.service').read_text().splitlines()

    old, new = unit('NOTIFY_RELOAD=no'), unit('NOTIFY_RELOAD=yes')
    assert 'Type=notify' in old
    assert 'ExecReload=kill -HUP $MAINPID' in old
    assert 'Type=notify-reload' in new
    assert not any(line.startswith('ExecReload=') for line in new)
    elsewhere = unit('PREFIX=/usr/local')
    assert 'ExecStart=/usr/local/sbin/sockaccel' in elsewhere
    assert 'Environment=BCC_KERNEL_SOURCE=/usr/local/share/sockaccel/bpf' in elsewhere


def test_configuration_of_the_administrator_stays(tmp_path: Path) -> None:
    configuration = tmp_path / 'etc/sockaccel/sockaccel.conf'
    make('install', tmp_path)
    configuration.write_text('[Sockaccel]\nLogLevel=debug\n')
    make('install', tmp_path)
    assert configuration.read_text() == '[Sockaccel]\nLogLevel=debug\n'
    make('uninstall', tmp_path)
    assert found(tmp_path) == {'/etc/sockaccel/sockaccel.conf'}


def test_news_tells_of_this_version() -> None:
    assert f'\nsockaccel {__version__}\n' in (ROOT / 'NEWS').read_text()


def test_no_release_without_news(tmp_path: Path) -> None:
    (tmp_path / 'tools').mkdir()
    for name in ('tools/release', 'NEWS'):
        shutil.copy(ROOT / name, tmp_path / name)
    answer = subprocess.run(
        ['tools/release', '987.0.0'], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (answer.returncode, answer.stdout) == (1, '')
    assert 'NEWS has no section "sockaccel 987.0.0"' in answer.stderr
