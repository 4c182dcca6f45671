# SPDX-License-Identifier: GPL-2.0-or-later
"""What an administrator has besides the daemon: the journal's story, log levels, man pages, completion."""

import re
import subprocess
from pathlib import Path

import pytest

from sockaccel.core import messages
from tests.installed import system
from tests.installed.system import attempt, journal, run


def test_the_journal_says_who_wanted_what(sockaccel: None) -> None:
    with system.echo() as target:
        run('sockaccelctl', 'enable', target)
        run(*system.CALL, 'Disable', 's', target)
    (enabled,) = journal(f'MESSAGE_ID={messages.ENABLED}')
    assert enabled['SOCKACCEL_TARGET'] == target
    assert re.match(r'uid 0, .+\.(service|scope)\[\d+\]$', enabled['SOCKACCEL_CALLER'])
    (disabled,) = journal(f'MESSAGE_ID={messages.DISABLED}', f'SOCKACCEL_TARGET={target}')
    assert re.match(r'uid 0, .+\.(service|scope)\[\d+\]$', disabled['SOCKACCEL_CALLER'])
    assert f'{target} is accelerated' in run('journalctl', '-x', '--boot', '--unit=sockaccel', '--no-pager')


def test_the_level_is_changed_while_it_runs(sockaccel: None) -> None:
    assert run('systemctl', 'service-log-level', 'sockaccel') == 'info\n'
    run('systemctl', 'service-log-level', 'sockaccel', 'warning')
    assert run('systemctl', 'service-log-level', 'sockaccel') == 'warning\n'
    assert attempt('systemctl', 'service-log-level', 'sockaccel', 'loud').returncode != 0
    assert run('systemctl', 'service-log-target', 'sockaccel') == 'journal\n'


def test_a_wrong_line_is_named_and_changes_nothing(sockaccel: None) -> None:
    drop_in = system.DROP_IN.with_name('95-wrong.conf')
    drop_in.write_text('[Sockaccel]\nEventsPerSecond=many\n')
    refused = attempt('sockaccelctl', 'reload')
    assert refused.returncode == 1
    assert f'{drop_in}:2: EventsPerSecond= "many"' in refused.stderr
    run('systemctl', 'reload', 'sockaccel')
    assert f'AcceptKernelIssues=fionread splice  # {system.DROP_IN}:2' in run('sockaccelctl', 'config')


@pytest.mark.parametrize('page', ['sockaccel.8', 'sockaccelctl.1', 'sockaccel.conf.5', 'org.sockaccel1.5'])
def test_man_pages(page: str) -> None:
    name, section = page.rsplit('.', 1)
    # Minimal Debian systems leave the pages themselves out.
    listed = run('dpkg', '--listfiles', 'sockaccel').splitlines()
    assert f'/usr/share/man/man{section}/{name}.{section}.gz' in listed


def test_completion() -> None:
    script = Path('/usr/share/bash-completion/completions/sockaccelctl')
    words = (
        f'. {script}; COMP_WORDS=(sockaccelctl enable sys); COMP_CWORD=2; _sockaccelctl; echo "${{COMPREPLY[@]}}"'
    )
    offered = subprocess.run(['bash', '-c', words], capture_output=True, text=True, check=True).stdout
    assert 'systemd-journald.service' in offered.split()
    assert Path('/usr/share/zsh/vendor-completions/_sockaccelctl').exists()
