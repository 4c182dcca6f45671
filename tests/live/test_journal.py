# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal's native protocol, and what systemd is told."""

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from sockaccel.core import messages
from sockaccel.errors import InvalidArgument
from sockaccel.systemd import journal
from sockaccel.systemd.journal import JournalRenderer, encode
from sockaccel.systemd.notify import Notifier, _line
from tests.support import harness
from tests.support.harness import ROOT, Cgroup, Daemon, PrivateBus, stop, wait_until
from tests.support.traffic import exchange, pair


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
        for _status in range(10000):
            notifier.status('x' * 1000)


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


def identifiers() -> dict[str, str]:
    return {name: value for name, value in vars(messages).items() if name.isupper()}


def test_every_message_id_has_an_entry_in_the_catalog() -> None:
    catalog = (ROOT / 'packaging/catalog/sockaccel.catalog').read_text()
    assert sorted(re.findall(r'^-- ([0-9a-f]{32})$', catalog, re.MULTILINE)) == sorted(identifiers().values())
    assert max(map(len, catalog.splitlines())) <= 76


def test_every_message_id_is_used() -> None:
    sources = ''.join(path.read_text() for path in (ROOT / 'sockaccel').rglob('*.py'))
    for name in identifiers():
        assert f'messages.{name}' in sources, name


class Journald:
    """A journald of our own, in a mount namespace with a /run of its own."""

    _SCRIPT = (
        'mount -t tmpfs none /run && mkdir -p /run/systemd/journal /run/log/journal && '
        'mount -t tmpfs none /usr/lib/systemd/catalog && mount -t tmpfs none /var/lib/systemd && '
        'cp packaging/catalog/sockaccel.catalog /usr/lib/systemd/catalog && journalctl --update-catalog && '
        'exec /lib/systemd/systemd-journald'
    )

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ['unshare', '--mount', '--propagation=private', 'sh', '-c', self._SCRIPT],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        socket_path = f'/proc/{self.process.pid}/root/run/systemd/journal/socket'
        ours = Path('/run').stat().st_dev
        run = Path(f'/proc/{self.process.pid}/root/run')
        wait_until(lambda: run.stat().st_dev != ours and Path(socket_path).exists(), 'journald listens')

    def inside(self, *command: str) -> tuple[str, ...]:
        """A command for its namespace."""
        return ('nsenter', '--mount', f'--target={self.process.pid}', f'--wd={ROOT}', *command)

    def lines(self, *matches: str) -> list[dict[str, str]]:
        show = self.inside('journalctl', '--sync')
        subprocess.run(show, check=False, capture_output=True)
        show = self.inside('journalctl', '--output=json', '--directory=/run/log/journal', *matches)
        printed = subprocess.run(show, check=True, capture_output=True, text=True).stdout
        return [json.loads(line) for line in printed.splitlines()]

    def explained(self) -> str:
        show = self.inside(
            'journalctl', '-x', '--no-pager', '--directory=/run/log/journal', 'SYSLOG_IDENTIFIER=sockaccel'
        )
        return subprocess.run(show, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def journald() -> Iterator[Journald]:
    journald = Journald()
    yield journald
    stop(journald.process)


def test_the_story_in_a_real_journal(journald: Journald) -> None:
    """Who enabled what, what came of it, and the end; by fields, and explained."""
    log_control = ('org.sockaccel1', '/org/freedesktop/LogControl1', 'org.freedesktop.LogControl1')
    with (
        PrivateBus() as bus,
        Cgroup(f'sockaccel-story-{os.getpid()}') as root,
        Daemon(root.path, command=journald.inside(sys.executable, '-m', 'sockaccel')) as daemon,
    ):
        daemon.ready()
        to_journal = [
            'busctl',
            f'--address={bus.address}',
            'set-property',
            *log_control,
            'LogTarget',
            's',
            'journal',
        ]
        subprocess.run(to_journal, check=True)
        accept = [f'--accept={name}' for name in harness.every_issue()]
        assert harness.control('enable', *accept, root.path).returncode == 0
        with pair(root) as made:
            exchange(made)
        wait_until(lambda: harness.call('Stats')['connections_closed'] == 2, 'the connection is closed')
        daemon.configure('Nonsense=1\n')
        assert harness.control('reload').returncode == 1
        daemon.reload()
        assert harness.control('disable', root.path).returncode == 0
        assert daemon.stop() == 0
    lines = journald.lines('SYSLOG_IDENTIFIER=sockaccel')
    story = [line['MESSAGE'] for line in lines if not line['MESSAGE'].startswith('Falls back')]
    kinds = [text.split(' ')[0] for text in story]
    assert kinds == [
        'Enabled',
        'Joined',
        'Joined',
        'Closed',
        'Closed',
        'Reload',
        'Configuration',
        'Disabled',
        'Stopped;',
    ], story
    assert ', asked by uid 0, python' in story[0]
    assert ':3: key "Nonsense" is unknown' in story[5]
    assert 'the previous one stays in force' in story[6]
    enabled = journald.lines(f'MESSAGE_ID={messages.ENABLED}')
    assert [line['SOCKACCEL_TARGET'] for line in enabled] == [root.path]
    assert enabled[0]['SOCKACCEL_CALLER'].startswith('uid 0, python')
    assert {line['PRIORITY'] for line in lines} == {'6', '3'}
    assert len(journald.lines(f'SOCKACCEL_TARGET={root.path}')) >= 6
    explained = journald.explained()
    assert f'{root.path} is accelerated' in explained
    assert 'Correct the line' in explained
