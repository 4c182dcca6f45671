# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal's native protocol, and what systemd is told."""

import socket
import struct
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from sockaccel.journal import JournalRenderer, encode
from sockaccel.notify import Notifier


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


def test_notify_sends_one_line_whatever_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / 'notify'))
        monkeypatch.setenv('NOTIFY_SOCKET', str(tmp_path / 'notify'))
        Notifier().status('two\nlines, café and \u2026')
        assert systemd.recv(4096) == b'STATUS=two lines, caf? and ?'


def test_notify_without_systemd_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('NOTIFY_SOCKET', raising=False)
    Notifier().ready('nobody asks')


def test_a_manager_that_does_not_read_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / 'notify'))
        monkeypatch.setenv('NOTIFY_SOCKET', str(tmp_path / 'notify'))
        notifier = Notifier()
        for _status in range(10000):
            notifier.status('x' * 1000)
