# SPDX-License-Identifier: GPL-2.0-or-later
"""What is remembered in files: it is read as it was written, and what is damaged harms nobody."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sockaccel.core.desired import Desired, Slot
from sockaccel.core.policies import Settings
from sockaccel.errors import AlreadyRunning, StateNotSaved
from sockaccel.systemd.statefiles import StateFiles

DESIRED = Desired(
    lasting={'x.service': {'AcceptKernelIssues': 'fionread', 'IncludePorts': '80 1-2'}, '/y': {}},
    runtime={'/z': {}, '/y': None},
    slots={3: Slot('x.service', 7, (1, 2, 3)), 4: Slot('gone.service', 0, ())},
)


@pytest.fixture
def files(tmp_path: Path) -> StateFiles:
    return StateFiles(tmp_path / 'state', tmp_path / 'run')


@pytest.fixture
def lasting(tmp_path: Path) -> Path:
    (tmp_path / 'state').mkdir()
    return tmp_path / 'state' / 'targets.json'


def test_what_was_written_is_read(files: StateFiles) -> None:
    assert files.read() == Desired()
    files.write(DESIRED)
    assert files.read() == DESIRED
    files.forget_runtime()
    assert files.read() == Desired(lasting=DESIRED.lasting)
    # What was forgotten is written anew.
    files.write(DESIRED)
    assert files.read() == DESIRED


NAMES = st.text(st.characters(exclude_categories=['Cs']), min_size=1, max_size=50)
CHOSEN = st.dictionaries(NAMES, NAMES, max_size=3)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(NAMES, CHOSEN, max_size=5),
    st.dictionaries(NAMES, st.one_of(st.none(), CHOSEN), max_size=5),
    st.dictionaries(
        st.integers(1, 127), st.builds(Slot, NAMES, st.integers(0, 2**32 - 1), st.tuples()), max_size=5
    ),
)
def test_any_names_are_remembered(
    files: StateFiles,
    lasting: dict[str, Settings],
    runtime: dict[str, Settings | None],
    slots: dict[int, Slot],
) -> None:
    files.write(Desired(lasting, runtime, slots))
    assert files.read() == Desired(lasting, runtime, slots)


@pytest.mark.parametrize(
    ('text', 'what'),
    [
        ('', 'Expecting value'),
        ('{"version": 2, "targets": [{"name": "/x", ', 'Expecting'),
        ('{"version": 2}', "no 'targets' in it"),
        ('{"version": 1, "targets": []}', 'version 1'),
        ('{"version": 2, "targets": [{"name": 5, "policy": {}}]}', 'not a text'),
        ('{"version": 2, "targets": [{"name": "/x", "policy": {"IncludePorts": 80}}]}', 'not a text'),
        ('{"version": 2, "targets": [{"name": "/x", "policy": ["x"]}]}', 'items'),
        ('[]', 'indices'),
        ('[' * 100_000, 'recursion'),
        ('\0', 'Expecting'),
        (' ' * (5 << 20), 'too long'),
    ],
)
def test_a_damaged_file_is_set_aside(files: StateFiles, lasting: Path, text: str, what: str) -> None:
    lasting.write_text(text)
    with capture_logs() as lines:
        assert files.read() == Desired()
    assert what in lines[0]['event']
    assert f'The remembered targets in "{lasting}" cannot be used' in lines[0]['event']
    assert lasting.with_name('targets.json.damaged').read_text() == text
    files.write(DESIRED)
    assert files.read() == DESIRED


def test_what_cannot_be_written_leaves_what_was(files: StateFiles, tmp_path: Path) -> None:
    files.write(DESIRED)
    # Neither root nor another user replaces a directory by a file.
    (tmp_path / 'run' / 'runtime.json').unlink()
    (tmp_path / 'run' / 'runtime.json').mkdir()
    with pytest.raises(StateNotSaved, match=r'runtime\.json'):
        files.write(Desired(runtime={'/other': {}}))
    assert [path.name for path in (tmp_path / 'run').iterdir()] == ['runtime.json']


def test_only_one_daemon_has_the_state(tmp_path: Path) -> None:
    first, second = (StateFiles(tmp_path / 'state', tmp_path / 'run') for _daemon in range(2))
    first.lock()
    with pytest.raises(AlreadyRunning):
        second.lock()
    second.close()
    first.close()
    third = StateFiles(tmp_path / 'state', tmp_path / 'run')
    third.lock()
    third.close()
