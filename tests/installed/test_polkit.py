# SPDX-License-Identifier: GPL-2.0-or-later
"""Everybody may look; polkit says who may change."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installed import system
from tests.installed.system import attempt, run, targets
from tests.support.harness import wait_until

RULE = Path('/etc/polkit-1/rules.d/10-sockaccel-test.rules')


@pytest.fixture
def user() -> Iterator[str]:
    run('useradd', '--no-create-home', 'sa-user')
    yield 'sa-user'
    run('userdel', 'sa-user')


def test_ordinary_user(sockaccel: None, user: str) -> None:
    as_user = ('setpriv', f'--reuid={user}', '--regid=nogroup', '--clear-groups', '--')
    with system.echo() as target:
        assert run(*as_user, *system.CALL, 'Stats').startswith('a{st} ')
        refused = attempt(*as_user, *system.CALL, 'Enable', 's', target)
        assert refused.returncode == 1
        assert 'org.sockaccel1.enable' in refused.stderr
        assert targets() == {}

        RULE.write_text(
            'polkit.addRule(function(action, subject) {\n'
            f'  if (action.id == "org.sockaccel1.enable" && subject.user == "{user}") return polkit.Result.YES;\n'
            '});\n'
        )
        try:
            # polkitd sees the file when it sees it.
            wait_until(
                lambda: attempt(*as_user, *system.CALL, 'Enable', 's', target).returncode == 0,
                'the rule is in force',
            )
            assert targets() == {target: 'active'}
            refused = attempt(*as_user, *system.CALL, 'Disable', 's', target)
            assert 'org.sockaccel1.disable' in refused.stderr
        finally:
            RULE.unlink()
