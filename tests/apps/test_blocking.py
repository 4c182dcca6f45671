# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients whose sockets have no O_NONBLOCK: what they do is the same, and their connections are left alone.

The clients of MariaDB and PHP poll and never sleep in recv(); on a kernel where sockaccel can see that, they may
be accelerated. redis-cli, redis-py and http.client sleep in recv(), where a member of a sockmap can get EAGAIN.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.place import ACCELERATED, NOBODY, Place, free_port
from tests.apps.test_nginx import _BACKEND, serve_nginx
from tests.support import harness
from tests.support.patience import LONG_S

ROUNDS = 300
# Of a client that never sleeps in recv(): what must be redirected of its bytes and its server's.
LEAST_SHARE = 0.75
_ROWS = 2000
# Rows of up to 2 KB by 100 queries: an answer that is a stream goes by TCP where its reader is late.
_SELECTS = ''.join(
    f'SELECT v FROM t WHERE id BETWEEN {first} AND {first + 19} ORDER BY id;\n' for first in range(1, _ROWS, 20)
)
_SQL = f"""\
CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, v LONGTEXT);
INSERT INTO t (v) SELECT REPEAT(CHAR(97 + seq % 26), seq) FROM seq_1_to_{_ROWS};
{'SELECT COUNT(*), SUM(LENGTH(v)), MD5(GROUP_CONCAT(MD5(v) ORDER BY id)) FROM t;' * 20}
{_SELECTS}"""
_PHP = """\
<?php
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
$db = new mysqli('127.0.0.1', 'test', 'x', 'test', (int)$argv[1]);
$hash = hash_init('sha256');
# Until then the connection is too young to join.
$db->query("SELECT SLEEP(2)")->fetch_row();
for ($round = 0; $round < %d; $round++) {
    $row = $db->query("SELECT REPEAT('x', $round * 100)")->fetch_row();
    hash_update($hash, $row[0]);
}
echo hash_final($hash), "\\n";
"""
# One row, which its server sends in one call. What the reader has no room for goes by TCP, and then all behind it.
_PHP_BIG = """\
<?php
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
$db = new mysqli('127.0.0.1', 'test', 'x', 'test', (int)$argv[1]);
$db->query("SELECT SLEEP(2)")->fetch_row();
echo hash('sha256', $db->query("SELECT REPEAT('y', 8000000)")->fetch_row()[0]), "\\n";
"""
_REDIS = """\
import hashlib, sys
sys.path.append('/usr/lib/python3/dist-packages')
import redis
client = redis.Redis('127.0.0.1', int(sys.argv[1]))
digest = hashlib.sha256()
for number in range(%d):
    client.set('key', b'x' * number * 100)
    digest.update(client.get('key'))
pipeline = client.pipeline()
for number in range(1000):
    pipeline.incr('count')
digest.update(repr(pipeline.execute()).encode())
print(digest.hexdigest())
"""
_HTTP = """\
import hashlib, http.client, sys
connection, digest = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1])), hashlib.sha256()
for number in range(%d):
    connection.request('GET', '/file')
    answer = connection.getresponse()
    assert answer.status == 200
    digest.update(answer.read())
print(digest.hexdigest())
"""


def left_alone(place: Place, what: str, outcome: str, found: object) -> None:
    """The same as plain, and nothing redirected, because an end blocks."""
    place.same(what, outcome, found, redirected=False)
    if place.way == ACCELERATED:
        assert place.counted()['connection_reason_blocking_end'] > 0, place.explain()


@pytest.fixture(scope='session')
def tables() -> Iterator[Path]:
    """The data directory of a new server, which takes long to make."""
    with tempfile.TemporaryDirectory(prefix='sockaccel-mariadb-') as name:
        shutil.chown(name, NOBODY)
        command = (
            'mariadb-install-db', '--no-defaults', f'--datadir={name}/data', f'--user={NOBODY}',
            '--auth-root-authentication-method=normal', '--skip-test-db',
        )  # fmt: skip
        if not shutil.which(command[0]):
            pytest.fail(f'{command[0]} is missing: run tools/setup apps')
        subprocess.run(command, check=True, capture_output=True, timeout=LONG_S)
        yield Path(name, 'data')


def serve_mariadb(place: Place, tables: Path) -> int:
    """A server with the database "test", for the user "test" with the password "x"."""
    directory, port = place.directory(NOBODY), free_port()
    data = directory / 'data'
    place.run('cp', '--archive', tables, data)
    start = directory / 'start.sql'
    # A statement to a line.
    start.write_text("CREATE DATABASE test;\nGRANT ALL ON test.* TO test@'127.0.0.1' IDENTIFIED BY 'x';\n")
    place.serve(
        port, 'mariadbd', '--no-defaults', f'--datadir={data}', '--bind-address=127.0.0.1', f'--port={port}',
        f'--socket={directory}/socket', f'--pid-file={directory}/pid', f'--init-file={start}',
        '--group-concat-max-len=100000000', '--max-allowed-packet=64M', '--skip-name-resolve', user=NOBODY,
    )  # fmt: skip
    return port


def test_mariadb_client(somewhere: Place, tables: Path) -> None:
    port = serve_mariadb(somewhere, tables)
    directory = somewhere.directory()
    script = directory / 'script.sql'
    script.write_text(_SQL)
    with script.open('rb') as file:
        printed = somewhere.run(
            'mariadb', '--no-defaults', '--host=127.0.0.1', f'--port={port}', '--protocol=tcp', '--user=test',
            '--password=x', '--batch', '--skip-column-names', 'test', stdin=file,
        )  # fmt: skip
    assert printed.count('\n') == _ROWS + 20
    digest = hashlib.sha256(printed.encode()).hexdigest()
    gains_where_seen(somewhere, 'mariadb', f'{len(printed) / 1e6:.1f} MB', digest)


def test_mysqli(somewhere: Place, tables: Path) -> None:
    port = serve_mariadb(somewhere, tables)
    gains_where_seen(somewhere, 'PHP with mysqli', f'{ROUNDS} queries', run_php(somewhere, _PHP % ROUNDS, port))


def test_mysqli_with_a_large_row(somewhere: Place, tables: Path) -> None:
    port = serve_mariadb(somewhere, tables)
    printed = run_php(somewhere, _PHP_BIG, port)
    assert printed.strip() == hashlib.sha256(b'y' * 8_000_000).hexdigest()
    if 'splice' in harness.every_issue():
        left_alone(somewhere, 'PHP with mysqli, a large row', '8.0 MB', printed)
    else:
        # How much is redirected depends on how soon it joins and how fast it reads.
        somewhere.note('PHP with mysqli, a large row', '8.0 MB')


def run_php(place: Place, text: str, port: int) -> str:
    script = place.directory() / 'script.php'
    script.write_text(text)
    printed = place.run('php', script, str(port))
    assert len(printed.strip()) == 64, printed
    return printed


def gains_where_seen(place: Place, what: str, outcome: str, found: object) -> None:
    """It blocks by its flag alone. A kernel that lets sockaccel see that accelerates most of its bytes."""
    if 'splice' in harness.every_issue():
        left_alone(place, what, outcome, found)
        return
    place.same(what, outcome, found)
    if place.way == ACCELERATED:
        assert place.share() > LEAST_SHARE, place.explain()


def serve_redis(place: Place) -> int:
    port, directory = free_port(), place.directory(NOBODY)
    options = ('--bind', '127.0.0.1', '--port', str(port), '--save', '', '--dir', directory)
    place.serve(port, 'redis-server', *options, user=NOBODY)
    return port


def test_redis_cli(somewhere: Place) -> None:
    port = serve_redis(somewhere)
    commands = somewhere.directory() / 'commands'
    lines = [f'SET key{number} {"x" * number * 10}\nGET key{number}\n' for number in range(1, ROUNDS)]
    commands.write_text(''.join(lines))
    with commands.open('rb') as file:
        printed = somewhere.run('redis-cli', '-h', '127.0.0.1', '-p', str(port), stdin=file)
    expected = ''.join(f'OK\n{"x" * number * 10}\n' for number in range(1, ROUNDS))
    assert printed == expected
    left_alone(somewhere, 'redis-cli', f'{2 * ROUNDS} commands', printed)


def test_redis_py(somewhere: Place) -> None:
    port = serve_redis(somewhere)
    printed = somewhere.run(sys.executable, '-c', _REDIS % ROUNDS, str(port))
    left_alone(somewhere, 'redis-py without time-outs', f'{ROUNDS} values', printed)


def test_http_client(somewhere: Place) -> None:
    port, root = free_port(), somewhere.directory()
    content = bytes(range(256)) * 4000
    (root / 'file').write_bytes(content)
    serve_nginx(somewhere, _BACKEND.format(port=port, root=root), port)
    rounds = 100
    printed = somewhere.run(sys.executable, '-c', _HTTP % rounds, str(port))
    assert printed.strip() == hashlib.sha256(content * rounds).hexdigest()
    if somewhere.way == ACCELERATED and 'fionread' in harness.every_issue():
        # nginx asks FIONREAD, and is on the list of programs for that.
        somewhere.same('http.client', f'{rounds} files', printed, redirected=False)
        assert somewhere.counted()['connection_reason_known_program'] > 0, somewhere.explain()
    else:
        left_alone(somewhere, 'http.client', f'{rounds} files', printed)
