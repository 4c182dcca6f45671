# SPDX-License-Identifier: GPL-2.0-or-later
"""Java: channels over a selector do not ask FIONREAD, InputStream.available() does.

On a kernel that answers it wrongly the list of programs leaves both alone, so it is empty here.
"""

from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest

from tests.apps.place import ACCELERATED, Place, free_port
from tests.support import harness
from tests.support.patience import LONG_S

pytestmark = pytest.mark.usefixtures('nothing_listed')

CONNECTIONS, SIZE = 200, 250_000
# More than a redirect lets wait unread, less than what fits into all buffers of a connection.
UNREAD = 900_000
ISSUE = 'fionread'
SOURCE = Path(__file__).with_name('Echo.java')


def serve(place: Place) -> tuple[int, Path]:
    """Compile, and start the echo server; returns its port and where the classes are."""
    classes = place.directory()
    place.run('javac', '-d', classes, SOURCE)
    port = free_port()
    place.serve(port, 'java', '-Xshare:auto', '-cp', classes, 'Echo', 'serve', str(port))
    return port, classes


def test_channels(somewhere: Place) -> None:
    port, classes = serve(somewhere)
    printed = somewhere.run('java', '-cp', classes, 'Echo', 'channels', str(port), str(CONNECTIONS), str(SIZE))
    assert printed.startswith('hash '), printed
    somewhere.same('Java NIO', f'{CONNECTIONS} connections, {CONNECTIONS * SIZE / 1e6:.0f} MB echoed', printed)


def has_joined(port: int) -> bool:
    return any(row['server_port'] == port and row['state'] == 'joined' for row in harness.connections())


def test_available(somewhere: Place) -> None:
    port, classes = serve(somewhere)
    client = somewhere.start(
        'java', '-cp', classes, 'Echo', 'available', str(port), str(UNREAD), stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    assert client.stdout
    assert client.stdout.readline() == b'ready\n'
    if somewhere.way == ACCELERATED:
        harness.wait_until(lambda: has_joined(port), 'its connection joins')
    printed = client.communicate(timeout=LONG_S)[0].decode().strip()
    if somewhere.way == ACCELERATED and ISSUE in harness.every_issue() and printed != 'same':
        assert printed.startswith('available() says 0 after'), printed
        somewhere.note('Java available()', f'STALLS ({ISSUE})')
        return
    assert printed == 'same', printed
    somewhere.same('Java available()', printed, printed)
