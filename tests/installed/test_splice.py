# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that reads by splice(2) loses nothing where the kernel lets sockaccel see who uses recv()."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.installed import system
from tests.installed.system import run
from tests.support.harness import wait_until
from tests.support.patience import PATIENCE_S, SLOWER

FRONT, BACK = 7721, 7722
CONNECTIONS, MESSAGES, SIZE = 10, 11, 1000
# Seconds in which a message of that size is read.
GAP_S = 0.02 * SLOWER


def message(connection: int, number: int) -> bytes:
    return f'{connection:2} {number:2} '.encode().ljust(SIZE, b'.')


@dataclass(frozen=True)
class Brought:
    """got: what the server behind the proxy has got, in the order of the connections; refused: their clients
    whose connection ended with an error, by number.
    """

    got: list[bytes]
    refused: set[int]


async def upload(connection: int, joined: asyncio.Event) -> bool:
    """Eleven messages when the connection has joined; the server closes when it has read the end.

    Returns whether the client got an error instead. Raises TimeoutError if it got neither.
    """
    reader, writer = await asyncio.open_connection('127.0.0.1', FRONT)
    await joined.wait()
    for number in range(MESSAGES):
        writer.write(message(connection, number))
        await asyncio.sleep(GAP_S)
    writer.write_eof()
    try:
        await asyncio.wait_for(reader.read(), PATIENCE_S)
    except TimeoutError:
        raise
    except OSError:
        return True
    finally:
        writer.close()
    return False


async def uploads(counter: str) -> Brought:
    """counter: has counted both connections of each upload before something is sent."""
    got: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            got.append(await reader.read(-1))
        writer.close()

    joined = asyncio.Event()
    wanted = system.stats()[counter] + 2 * CONNECTIONS
    async with await asyncio.start_server(take, '127.0.0.1', BACK):
        tasks = [asyncio.create_task(upload(number, joined)) for number in range(CONNECTIONS)]
        await asyncio.to_thread(
            wait_until, lambda: system.stats()[counter] >= wanted, f'{counter} of each upload are counted'
        )
        joined.set()
        refused = await asyncio.gather(*tasks)
    return Brought(sorted(got), {number for number, is_refused in enumerate(refused) if is_refused})


@pytest.fixture
def blind() -> Iterator[None]:
    """The daemon as on a kernel that refuses watchers."""
    # No environment reaches the loader, so the package itself is another one meanwhile.
    path = Path('/usr/lib/python3/dist-packages/sockaccel/kernel/watched.py')
    before = path.read_text()
    path.write_text(f'{before}\n\ntaken = lambda _values: {{}}\n')
    yield
    path.write_text(before)


# In the order of the connections.
SENT = [b''.join(message(number, each) for each in range(MESSAGES)) for number in range(CONNECTIONS)]


def got_through_the_proxy(*counters: str) -> list[Brought]:
    """For each counter what one time all uploads brought, see `uploads`."""
    text = f'[Service]\nType=notify\n{system.python("splicer", str(FRONT), str(BACK))}'
    with system.service('sa-splicer.service', text) as name:
        run('systemctl', 'start', name)
        run('sockaccelctl', 'enable', name)
        return [asyncio.run(uploads(counter)) for counter in counters]


def test_an_upload_through_a_proxy_that_splices(sockaccel: None) -> None:
    if 'splice' in system.issues():
        pytest.skip('this kernel takes no watchers')
    joined, known = got_through_the_proxy('connections', 'connection_reason_known_program')
    assert joined == Brought(SENT, set())
    assert system.stats()['connection_reason_splice_end'] >= CONNECTIONS
    # From then on the program is left alone.
    assert known == Brought(SENT, set())
    rows = json.loads(run('sockaccelctl', 'programs', '--json'))
    (seen,) = (row for row in rows if row['source'] == 'seen')
    assert seen['name'] == str(Path('/usr/bin/python3').resolve())
    assert seen['knows'] == ['splices']


def test_without_watchers_a_proxy_that_splices_loses_bytes(blind: None, sockaccel: None) -> None:
    """So that the test above shows something."""
    assert 'splice' in system.issues()
    (uploaded,) = got_through_the_proxy('connections')
    got, sent = sum(map(len, uploaded.got)), sum(map(len, SENT))
    print(f'without watchers {sent - got} of {sent} bytes are lost')
    assert got < sent
