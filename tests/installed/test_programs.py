# SPDX-License-Identifier: GPL-2.0-or-later
"""What watchers see a program do decides, and is remembered for its executable."""

import contextlib
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.installed import system
from tests.installed.system import run
from tests.support.harness import ROOT, wait_until
from tests.support.patience import PATIENCE_S

PROGRAMS = Path('/opt/sockaccel-test')
PORT, ECHO_PORT = 7731, 7711


@pytest.fixture(autouse=True)
def _watchers(sockaccel: None) -> None:
    if 'splice' in system.issues():
        pytest.skip('this kernel takes no watchers')


@contextlib.contextmanager
def odd(way: str) -> Iterator[Path]:
    """A service, enabled, with an executable of its own. Gives its path."""
    PROGRAMS.mkdir(exist_ok=True)
    program = PROGRAMS / way
    shutil.copy(Path('/usr/bin/python3').resolve(), program)
    command = f'{program} -m tests.installed.odd {way} {PORT}'
    text = f'[Service]\nType=notify\nEnvironment=PYTHONHOME=/usr\nWorkingDirectory={ROOT}\nExecStart={command}\n'
    try:
        with system.service(f'sa-{way}.service', text) as name:
            run('systemctl', 'start', name)
            run('sockaccelctl', 'enable', name)
            yield program
    finally:
        shutil.rmtree(PROGRAMS)


def connect(port: int = PORT) -> socket.socket:
    """With O_NONBLOCK, which a time limit brings."""
    end = socket.create_connection(('127.0.0.1', port), PATIENCE_S)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return end


def ask(end: socket.socket, message: bytes = b'x' * 100) -> bytes:
    end.sendall(message)
    return end.recv(65536)


def row(end: socket.socket) -> dict[str, Any]:
    port = end.getsockname()[1]
    rows = json.loads(run('sockaccelctl', 'connections', '--json', '--port', str(port)))
    return dict(rows[0]) if rows else {'state': '', 'client_reason': '', 'server_reason': '', 'path': ''}


def comes_to(end: socket.socket, state: str, reason: str = '') -> None:
    """Wait until a connection that carries messages has a state, and a reason if one is given."""

    def there() -> bool:
        ask(end)
        now = row(end)
        return now['state'] == state and (not reason or reason in (now['client_reason'], now['server_reason']))

    try:
        wait_until(there, f'the connection is {state} {reason}')
    except AssertionError as exc:
        raise AssertionError(f'{exc}: {row(end)} {run("sockaccelctl", "status")}') from exc


def seen() -> dict[str, dict[str, Any]]:
    rows = json.loads(run('sockaccelctl', 'programs', '--json'))
    return {row['name']: row for row in rows if row['source'] == 'seen'}


def severity(name: str) -> str:
    return next(row['severity'] for row in system.findings() if row['name'] == name)


def is_known() -> bool:
    """Whether a new connection to the odd program is left out from the start."""
    with connect() as end:
        ask(end)
        return str(row(end)['client_reason']) == 'known_program'


def test_who_asks_fionread_stays_out_and_others_join() -> None:
    if severity('fionread') == 'ok':
        pytest.skip('this kernel answers rightly')
    # Who asks is seen, so it is no issue.
    assert severity('fionread') == 'note'
    system.DROP_IN.unlink()
    run('systemctl', 'reload', 'sockaccel.service')
    with odd('asks') as program, system.echo() as echo:
        run('sockaccelctl', 'enable', echo)
        with connect() as end:
            comes_to(end, 'left', 'fionread_end')
        with connect() as end:
            for size in (100, 200, 300):
                assert ask(end, b'x' * size) == f'{size} {size}'.encode()
            assert row(end)['client_reason'] == 'known_program'
        assert seen()[str(program)]['knows'] == ['asks_fionread']
        with connect(ECHO_PORT) as end:
            comes_to(end, 'joined')
        run('systemctl', 'restart', 'sockaccel.service')
        assert is_known()
        # As with a reboot: nothing is left in the kernel.
        run('systemctl', 'stop', 'sockaccel.service')
        run('systemctl', 'start', 'sockaccel.service')
        assert is_known()
        run('sockaccelctl', 'programs', '--forget', str(program))
        assert not is_known()


def test_messages_with_flags_go_by_tcp() -> None:
    with system.echo() as echo:
        run('sockaccelctl', 'enable', echo)
        with connect(ECHO_PORT) as end:
            comes_to(end, 'joined')
            before = system.stats()
            wait_until(lambda: ask(end) and redirected_since(before) > 0, 'messages are redirected')
            flags = 'message_reason_send_flags'
            before = system.stats()
            end.send(b'!', socket.MSG_OOB)
            # It is beside the stream, as with TCP.
            assert ask(end, b'after') == b'after'
            end.send(b'head', socket.MSG_MORE)
            assert ask(end, b'body') == b'headbody'
            after = system.stats()
            assert after[flags] - before[flags] == 2
            wait_until(lambda: ask(end) and redirected_since(after) > 0, 'messages are redirected again')


def redirected_since(before: dict[str, int]) -> int:
    return system.stats()['redirected_messages'] - before['redirected_messages']


def test_a_reader_that_never_waits_joins() -> None:
    with odd('dontwait') as program, connect() as end:
        comes_to(end, 'joined')
        before = system.stats()
        wait_until(lambda: ask(end) and redirected_since(before) > 0, 'messages are redirected')
        # The first call that waits takes it out.
        assert ask(end, b'wait') == b'wait'
        assert ask(end, b'still whole') == b'still whole'
        comes_to(end, 'left', 'blocking_end')
        assert seen()[str(program)]['knows'] == ['blocks']


def test_a_reader_that_discards_stays_out() -> None:
    with odd('discards') as program, connect() as end:
        wait_until(lambda: row(end)['state'] == 'joined', 'the connection joins')
        end.sendall(b'x' * 100)
        comes_to(end, 'left', 'read_flags_end')
        assert seen()[str(program)]['knows'] == ['discards']
        assert is_known()


def test_the_list_is_not_needed() -> None:
    assert not any(row['in_force'] for row in json.loads(run('sockaccelctl', 'programs', '--json')))
