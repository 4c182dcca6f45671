# SPDX-License-Identifier: GPL-2.0-or-later
"""What systemd is told (sd_notify(3))."""

import contextlib
import re
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockaccel.systemd.notify import Notifier, _line


def test_notify_sends_one_line_whatever_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / 'notify'))
        monkeypatch.setenv('NOTIFY_SOCKET', str(tmp_path / 'notify'))
        Notifier().status('two\nlines, café and \u2026')
        assert systemd.recv(4096) == b'STATUS=two lines, caf? and ?'


@given(st.text(max_size=300))
def test_any_text_is_one_assignment(text: str) -> None:
    assert _line(text).isascii()
    assert not re.search(r'[\n\r\0]', _line(text))
    assert _line(_line(text)) == _line(text)


def test_notify_without_systemd_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('NOTIFY_SOCKET', raising=False)
    Notifier().ready('nobody asks')


def test_a_manager_that_does_not_read_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / 'notify'))
        monkeypatch.setenv('NOTIFY_SOCKET', str(tmp_path / 'notify'))
        notifier = Notifier()
        for number in range(10_000):
            notifier.status(f'{number} {"x" * 1000}')
        systemd.setblocking(False)
        told = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                assert systemd.recv(4096).startswith(b'STATUS=%d x' % told)
                told += 1
        # It was not waited for, and when it reads again it hears what comes then.
        assert 0 < told < 10_000
        notifier.status('again')
        assert systemd.recv(4096) == b'STATUS=again'
