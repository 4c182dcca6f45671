# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever a client sends, it gets an answer without a traceback, and the next client gets one too."""

import asyncio
import contextlib
import os
import re
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from dbus_next import Variant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sockaccel.bus.manager import Manager
from sockaccel.core.keys import POLICY_KEYS
from sockaccel.ctl.client import Client, NotRunning, Refused
from sockaccel.dbus.interface import methods_of
from tests.support.harness import PrivateBus, call, control
from tests.support.messages import raw
from tests.support.patience import PATIENCE_S
from tests.support.surface import Surface

pytestmark = pytest.mark.usefixtures('surface')
MEMBERS = sorted(methods_of(Manager))
NO_TRACE = ('Traceback', 'File "', 'internal error')


@pytest.fixture(scope='module')
def surface() -> Iterator[Surface]:
    with PrivateBus(), Surface(10) as surface:
        yield surface


# D-Bus carries neither NUL nor surrogates; the broker throws out who sends them.
TEXT = st.text(st.characters(exclude_characters='\0', exclude_categories=['Cs']), max_size=300)
NUMBERS = {'y': 8, 'q': 16, 'u': 32, 't': 64}
SIGNED = {'n': 16, 'i': 32, 'x': 64}
BASIC: dict[str, st.SearchStrategy[Any]] = {
    **{token: st.integers(0, 2**bits - 1) for token, bits in NUMBERS.items()},
    **{token: st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for token, bits in SIGNED.items()},
    'b': st.booleans(), 'd': st.floats(), 's': TEXT, 'g': st.sampled_from(['', 's', 'a{sv}']),
    'o': st.sampled_from(['/', '/a/b_1']), 'h': st.integers(0, 3),
}  # fmt: skip


@st.composite
def typed(draw: st.DrawFn, depth: int = 3) -> tuple[str, Any]:
    """A single complete type and a value of it."""
    kinds = [*BASIC, *(['a', '(', '{', 'v'] if depth else [])]
    kind = draw(st.sampled_from(kinds))
    if kind in BASIC:
        return kind, draw(BASIC[kind])
    signature, value = draw(typed(depth=depth - 1))
    if kind == 'v':
        return 'v', Variant(signature, value)
    if kind == '(':
        return f'({signature}s)', [value, 'x']
    if kind == '{':
        return f'a{{s{signature}}}', draw(st.dictionaries(TEXT, st.just(value), max_size=3))
    # dbus-next reads an array of bytes as bytes.
    return f'a{signature}', bytes(draw(st.binary(max_size=9))) if signature == 'y' else [value] * draw(
        st.integers(0, 3)
    )


def answer(member: str, signature: str, *arguments: Any) -> str:
    """The error's text, '' for none."""
    try:
        call(member, signature, *arguments)
    except Refused as exc:
        assert exc.name.startswith(('org.sockaccel1.Error.', 'org.freedesktop.DBus.Error.Unknown')), exc.name
        assert not any(word in str(exc) for word in NO_TRACE), exc
        return str(exc)
    return ''


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(MEMBERS), st.lists(typed(), max_size=4))
def test_any_arguments_of_any_type(member: str, arguments: list[tuple[str, Any]]) -> None:
    answer(
        member, ''.join(signature for signature, _value in arguments), *(value for _signature, value in arguments)
    )


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    TEXT,
    st.dictionaries(st.one_of(TEXT, st.sampled_from([*POLICY_KEYS, 'runtime'])), typed(), max_size=3),
)
def test_any_target_with_any_options(target: str, options: dict[str, tuple[str, Any]]) -> None:
    variants = {name: Variant(*value) for name, value in options.items()}
    answer('EnableWithOptions', 'sa{sv}', target, variants)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.one_of(TEXT, st.sampled_from(['target', 'path', 'reason', 'program', 'address', 'port', 'pid'])),
        typed(), max_size=3,
    ),
    BASIC['t'],
    BASIC['t'],
)  # fmt: skip
def test_any_filter(wanted: dict[str, tuple[str, Any]], listing: int, offset: int) -> None:
    variants = {name: Variant(*value) for name, value in wanted.items()}
    answer('ListConnections', 'a{sv}tt', variants, listing, offset)


def test_a_defect_of_ours_is_hidden(surface: Surface) -> None:
    with pytest.raises(Refused) as raised:
        call('Enable', 's', '/defect')
    assert str(raised.value) == 'an internal error, see "journalctl -u sockaccel" for its details'
    assert raised.value.name == 'org.freedesktop.DBus.Error.Failed'
    # It is in the log, which the end of the fixture would complain of.
    surface.forgive('ZeroDivisionError')


def test_a_long_message_is_refused_without_reading_it() -> None:
    assert 'too long' in answer('Enable', 's', 'x' * 1_000_000)
    assert 'too long' in answer('Enable', 'ab', [True] * 200_000)


def test_a_connection_that_sends_nul_harms_nobody() -> None:
    with pytest.raises((NotRunning, Refused)):
        call('Enable', 's', '/x\0y')
    assert answer('Stats', '') == ''


def test_sockaccelctl_with_what_is_no_text() -> None:
    for argument in (os.fsdecode(b'/x\xff'), '\x1b[2J', 'x' * 100_000):
        said = control('enable', argument)
        assert said.returncode in (1, 2)
        assert 'Traceback' not in said.stderr
        assert '\x1b' not in said.stderr


# The answer to GetId.
BUS_ID = re.compile(rb'[0-9a-f]{32}\0')


def to_the_bus(member: str) -> bytes:
    bus = 'org.freedesktop.DBus'
    return raw(member, path='/org/freedesktop/DBus', destination=bus, interface=bus)


def send_raw(message: bytes, expected: bytes) -> bytes:
    """Send it and a call to the broker; returns what came until that was answered, or the broker threw us out.

    What is expected of the daemon comes before the end too.
    """
    path = os.environ['DBUS_SYSTEM_BUS_ADDRESS'].split('path=')[1].split(',')[0]
    received = b''
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(path)
        client.sendall(b'\0AUTH EXTERNAL ' + str(os.getuid()).encode().hex().encode() + b'\r\n')
        client.recv(4096)
        client.sendall(b'BEGIN\r\n' + to_the_bus('Hello'))
        assert b':1.' in client.recv(4096)
        with contextlib.suppress(ConnectionError):
            client.sendall(message + to_the_bus('GetId'))
            while not (expected in received and BUS_ID.search(received)) and (chunk := client.recv(65536)):
                received += chunk
    return received


@pytest.mark.parametrize(
    ('message', 'expected'),
    [
        pytest.param(raw('Stats', order='>'), b'redirected_bytes', id='big-endian'),
        pytest.param(raw('Stats', interface=None), b'redirected_bytes', id='no interface'),
        pytest.param(raw('Stats', kind=77), b'', id='unknown type'),
        pytest.param(raw('Stats', flags=0xF8), b'redirected_bytes', id='unknown flags'),
        pytest.param(raw('Stats', extra=b'\xc8\x01y\0\x01'), b'redirected_bytes', id='unknown field'),
        pytest.param(
            raw('Enable', signature='h', body=struct.pack('<I', 3)), b'UnknownMethod', id='no such descriptor'
        ),
        pytest.param(raw('Enable', signature='as', body=struct.pack('<I', 1 << 30)), b'', id='beyond the end'),
        pytest.param(raw('Enable', signature='s', body=b'\2\0\0\0\xff\xfe\0'), b'', id='not UTF-8'),
        pytest.param(raw('Enable', signature='v' * 3, body=bytes(40)), b'', id='variants of nothing'),
        pytest.param(raw('Stats')[:-3], b'', id='cut off'),
        pytest.param(os.urandom(200), b'', id='noise'),
    ],
)
def test_any_bytes(message: bytes, expected: bytes) -> None:
    assert expected in send_raw(message, expected)
    assert answer('Stats', '') == ''


def test_a_call_without_interface_is_answered() -> None:
    async def once() -> Any:
        async with Client() as client:
            return await client.ask('org.sockaccel1', '/org/sockaccel1', '', 'Stats')

    assert 'connections' in asyncio.run(once())
