# SPDX-License-Identifier: GPL-2.0-or-later
"""PostgreSQL over TCP: pgbench's books balance, a dump comes back as it was."""

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.apps import debian
from tests.apps.place import Place, free_port
from tests.support import harness

USER = 'postgres'
CLIENTS, TRANSACTIONS, SCALE = 8, 500, 2

_SUMS = """
    SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches),
           (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(delta) FROM pgbench_history),
           (SELECT count(*) FROM pgbench_history)
"""
# All that one sees of the accounts depends on the seed alone: additions commute.
_ACCOUNTS = "SELECT md5(string_agg(aid || ' ' || abalance, ',' ORDER BY aid)) FROM pgbench_accounts"
# Rows of up to some megabytes that the server makes from a formula.
_BLOBS = """
    CREATE TABLE blobs AS SELECT n, string_agg(decode(md5(n || ' ' || m), 'hex'), '') AS data
    FROM generate_series(1, 40) n, generate_series(1, 3000 * n) m GROUP BY n
"""


def programs() -> Path:
    """The directory of the server's programs, of the newest version that is installed."""
    found = sorted(Path('/usr/lib/postgresql').glob('*/bin'), key=lambda path: int(path.parent.name))
    if not found:
        pytest.fail('PostgreSQL is missing: run tools/setup apps')
    return found[-1]


@dataclass
class Server:
    place: Place
    port: int

    @property
    def address(self) -> tuple[str, ...]:
        return ('--host=127.0.0.1', f'--port={self.port}', f'--username={USER}')

    def run(self, program: str, *arguments: str | Path) -> str:
        return self.place.run(programs() / program, *self.address, *arguments, user=USER)

    def ask(self, statement: str, database: str = 'postgres') -> str:
        options = ('--no-psqlrc', '--quiet', '--tuples-only', '--no-align', '--set=ON_ERROR_STOP=1')
        return self.run('psql', *options, f'--dbname={database}', f'--command={statement}').strip()


def serve(place: Place, locale: str = 'C.UTF-8') -> Server:
    """A cluster of its own, that listens on TCP alone."""
    data = place.directory(USER) / 'data'
    place.run(
        programs() / 'initdb', f'--pgdata={data}', '--auth=trust', f'--username={USER}', '--no-sync',
        f'--locale={locale}', '--encoding=UTF8',
        user=USER,
    )  # fmt: skip
    port = free_port()
    settings = {
        'listen_addresses': '127.0.0.1',
        'port': str(port),
        'unix_socket_directories': '',
        'fsync': 'off',
        'log_min_messages': 'fatal',
        'log_min_error_statement': 'fatal',
    }
    options = [f'--{name}={value}' for name, value in settings.items()]
    # SIGINT is "fast shutdown": it does not wait for clients.
    place.serve(port, programs() / 'postgres', '-D', data, *options, user=USER, ended_by=2)
    # It listens before it has looked at its files, and answers that it is starting up.
    is_ready: list[str] = [str(programs() / 'pg_isready'), '--host=127.0.0.1', f'--port={port}', '--quiet']
    harness.wait_until(lambda: subprocess.run(is_ready, check=False).returncode == 0, 'PostgreSQL has started')
    return Server(place, port)


def test_pgbench_balances(somewhere: Place) -> None:
    server = serve(somewhere)
    server.run('pgbench', '--initialize', f'--scale={SCALE}', '--quiet', 'postgres')
    printed = server.run(
        'pgbench', f'--client={CLIENTS}', '--jobs=2', f'--transactions={TRANSACTIONS}', '--random-seed=1',
        '--no-vacuum', 'postgres',
    )  # fmt: skip
    done = CLIENTS * TRANSACTIONS
    assert f'number of transactions actually processed: {done}/{done}' in printed, printed
    assert 'number of failed transactions: 0' in printed, printed
    rate = float(printed.partition('tps = ')[2].split()[0])
    accounts, branches, tellers, history, count = (int(value) for value in server.ask(_SUMS).split('|'))
    assert count == done
    assert accounts == branches == tellers == history
    found = (history, server.ask(_ACCOUNTS))
    somewhere.same('pgbench TPC-B -c8', f'{done} balanced, {rate:.0f}/s', found)


@pytest.mark.parametrize('protocol', ['simple', 'extended', 'prepared'])
def test_pgbench_reads(somewhere: Place, protocol: str) -> None:
    server = serve(somewhere)
    server.run('pgbench', '--initialize', '--scale=1', '--quiet', 'postgres')
    printed = server.run(
        'pgbench', '--select-only', f'--protocol={protocol}', '--client=8', '--jobs=2', '--transactions=2000',
        'postgres',
    )  # fmt: skip
    assert 'number of transactions actually processed: 16000/16000' in printed, printed
    rate = float(printed.partition('tps = ')[2].split()[0])
    somewhere.same(f'pgbench -S {protocol}', f'16000 done, {rate:.0f}/s', None)


def test_dump_and_restore(somewhere: Place) -> None:
    server = serve(somewhere)
    server.run('pgbench', '--initialize', f'--scale={SCALE}', '--quiet', 'postgres')
    server.ask(_BLOBS)
    server.run('createdb', 'restored')
    here = somewhere.directory(USER)
    first, second = here / 'first.sql', here / 'second.sql'
    server.run('pg_dump', f'--file={first}', 'postgres')
    restore = ('--no-psqlrc', '--quiet', '--set=ON_ERROR_STOP=1', '--dbname=restored', f'--file={first}')
    server.run('psql', *restore)
    server.run('pg_dump', f'--file={second}', 'restored')
    before, after = ([_without_secrets(line) for line in path.open('rb')] for path in (first, second))
    assert before == after
    digest = hashlib.sha256(b''.join(before)).hexdigest()
    size = first.stat().st_size / 1e6
    somewhere.same('pg_dump | psql', f'{size:.0f} MB, same dump', digest)


def test_regression(somewhere: Place, sources: Path) -> None:
    """The tests of the source package. It may be of another minor version: what fails must fail both ways."""
    package = f'postgresql-{programs().parent.name}'
    source = debian.source(package, sources) / 'src' / 'test' / 'regress'
    here = somewhere.directory()
    somewhere.run('cp', '-r', source, here / 'regress')
    libraries = here / 'libraries'
    libraries.mkdir()
    for library in (programs().parent / 'lib').glob('*.so'):
        (libraries / library.name).symlink_to(library)
    headers = somewhere.run(programs() / 'pg_config', '--includedir-server').strip()
    somewhere.run(
        'gcc', '-shared', '-fPIC', '-O1', '-w', f'-I{headers}', '-o', libraries / 'regress.so',
        source / 'regress.c',
    )  # fmt: skip
    somewhere.run('chown', '-R', USER, here)
    server = serve(somewhere, 'C')
    runner = programs().parent / 'lib' / 'pgxs' / 'src' / 'test' / 'regress' / 'pg_regress'
    printed = somewhere.run(
        runner, '--host=127.0.0.1', f'--port={server.port}', f'--user={USER}', f'--bindir={programs()}',
        f'--dlpath={libraries}', '--inputdir=.', '--outputdir=.', '--schedule=parallel_schedule',
        '--max-connections=8', '--encoding=UTF8',
        statuses=(0, 1), user=USER, cwd=here / 'regress',
    )  # fmt: skip
    verdicts = dict(re.findall(r'^(?:test | {5})(\S+) +\.\.\. (ok|FAILED)', printed, re.MULTILINE))
    failed = sorted(name for name, verdict in verdicts.items() if verdict != 'ok')
    assert len(verdicts) > 150, printed
    assert len(failed) < 10, printed
    # What a failed test printed must be the same too.
    texts = {name: (here / 'regress/results' / f'{name}.out').read_text() for name in failed}
    print((here / 'regress/regression.diffs').read_text() if failed else '')
    found = (verdicts, {name: text.replace(str(here), '') for name, text in texts.items()})
    outcome = f'{len(verdicts) - len(failed)} passed, {len(failed)} failed'
    somewhere.same('PostgreSQL regression tests', outcome, found)


def _without_secrets(line: bytes) -> bytes:
    """Newer versions put a random word behind \\restrict, against tampering."""
    return line.split()[0] if line.startswith((b'\\restrict ', b'\\unrestrict ')) else line
