# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal's native protocol, and the level of the log."""

import contextlib
import re
import socket
import struct
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from sockaccel.errors import InvalidArgument
from sockaccel.systemd import journal
from sockaccel.systemd.journal import JournalRenderer, encode


def decode(data: bytes) -> dict[str, str]:
    """systemd's docs/JOURNAL_NATIVE_PROTOCOL.md, read by other means than it is written."""
    fields = {}
    while data:
        line, _newline, rest = data.partition(b'\n')
        if b'=' in line:
            key, _equals, value = line.partition(b'=')
            data = rest
        else:
            key = line
            (size,) = struct.unpack('<Q', rest[:8])
            value, data = rest[8 : 8 + size], rest[8 + size + 1 :]
        fields[key.decode()] = value.decode()
    return fields


@given(
    st.dictionaries(st.from_regex(r'[A-Z][A-Z0-9_]{0,20}', fullmatch=True), st.text(st.characters(codec='utf-8')))
)
def test_any_fields_survive_the_protocol(fields: dict[str, str]) -> None:
    assert decode(encode(fields)) == fields


def test_a_line_carries_fields(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / 'socket'))
        renderer = JournalRenderer(str(tmp_path / 'socket'))
        line = {'event': 'Enabled "x.service"', 'level': 'info', 'target': 'x.service', 'cgroup': None}
        with pytest.raises(structlog.DropEvent):
            renderer(None, 'warning', line)
        assert decode(journal.recv(4096)) == {
            'MESSAGE': 'Enabled "x.service"',
            'PRIORITY': '4',
            'SYSLOG_IDENTIFIER': 'sockaccel',
            'SOCKACCEL_TARGET': 'x.service',
        }


def test_without_a_journal_the_line_goes_to_stderr(tmp_path: Path) -> None:
    renderer = JournalRenderer(str(tmp_path / 'nowhere'))
    assert renderer(None, 'error', {'event': 'text'}) == '<3>text'


def test_a_journald_that_does_not_keep_up_costs_lines_and_no_time(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as slow:
        slow.bind(str(tmp_path / 'socket'))
        renderer = JournalRenderer(str(tmp_path / 'socket'))
        for _line in range(10_000):
            with pytest.raises(structlog.DropEvent):
                renderer(None, 'info', {'event': 'x' * 1000})
        slow.recv(4096)
        with pytest.raises(structlog.DropEvent):
            renderer(None, 'info', {'event': 'again'})
        slow.setblocking(False)
        queued = b''
        with contextlib.suppress(BlockingIOError):
            while True:
                queued = slow.recv(4096)
        last = decode(queued)
        assert re.fullmatch(
            r'again \(\d+ lines before were lost, because journald did not keep up\)', last['MESSAGE']
        )


def test_levels_by_their_names_in_syslog() -> None:
    before = journal.level()
    try:
        for name in ('debug', 'info', 'notice', 'warning', 'err', 'crit', 'alert', 'emerg'):
            journal.set_level(name)
            assert journal.level() == name
        for nonsense in ('', 'loud', 'DEBUG', 'x' * 1000):
            with pytest.raises(InvalidArgument):
                journal.set_level(nonsense)
        assert journal.level() == 'emerg'
    finally:
        journal.set_level(before)
