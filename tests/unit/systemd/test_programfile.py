# SPDX-License-Identifier: GPL-2.0-or-later
"""The file in which programs are remembered."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sockaccel.core.knowledge import Knowledge
from sockaccel.core.programs import Executable, Seen
from sockaccel.errors import StateNotSaved
from sockaccel.systemd.programfile import ProgramFile

PROGRAMS = [
    Seen(Executable(8 << 20 | 1, 100), '/usr/bin/proxy', Knowledge.SPLICES | Knowledge.BLOCKS, 1_700_000_000),
    Seen(Executable(1, 2), '/opt/ä b', Knowledge.ASKS_FIONREAD, 1),
]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = ProgramFile(tmp_path / 'state')
    assert file.read() == []
    file.write(PROGRAMS)
    assert ProgramFile(tmp_path / 'state').read() == PROGRAMS
    file.write([])
    assert file.read() == []
    assert [path.name for path in (tmp_path / 'state').iterdir()] == ['programs.json']


@pytest.mark.parametrize(
    'text',
    [
        '',
        '[]',
        '{"version": 1, "programs": []}',
        '{"version": 2, "programs": [{"path": 1, "device": 1, "inode": 1, "knows": [], "since": 1}]}',
        '{"version": 2, "programs": [{"path": "/x", "device": -1, "inode": 1, "knows": [], "since": 1}]}',
        '{"version": 2, "programs": [{"path": "/x", "device": 1, "inode": 1, "knows": ["x"], "since": 1}]}',
        '{"version": 2, "programs": [{"path": "/x"}]}',
    ],
)
def test_a_damaged_file_is_put_aside(tmp_path: Path, text: str) -> None:
    path = tmp_path / 'programs.json'
    path.write_text(text)
    with capture_logs() as lines:
        assert ProgramFile(tmp_path).read() == []
    assert not path.exists()
    assert (tmp_path / 'programs.json.damaged').read_text() == text
    assert 'The remembered programs in ' in lines[0]['event']


def test_no_room(tmp_path: Path) -> None:
    (tmp_path / 'state').write_text('not a directory')
    with pytest.raises(StateNotSaved, match='cannot remember programs in'):
        ProgramFile(tmp_path / 'state').write(PROGRAMS)
