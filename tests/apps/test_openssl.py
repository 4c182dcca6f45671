# SPDX-License-Identifier: GPL-2.0-or-later
"""OpenSSL's s_client and s_server: TLS over non-blocking sockets, and over blocking ones, which TCP must keep."""

import hashlib
import os
import random
import threading
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from tests.apps.place import Place, free_port
from tests.support.patience import PATIENCE_S

SIZE = 20 << 20


def certificate(place: Place) -> tuple[Path, Path]:
    directory = place.directory()
    key, made = directory / 'key.pem', directory / 'certificate.pem'
    place.run(
        'openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes',
        '-keyout', key, '-out', made, '-subj', '/CN=localhost', '-days', '1',
    )  # fmt: skip
    return key, made


def carry(place: Place, source: Popen[bytes], sink: Popen[bytes], data: bytes) -> str:
    """What one program gets on its standard input must come out of the other; returns the hash of what came."""
    assert source.stdin
    assert sink.stdout
    came = bytearray()
    done = threading.Event()

    def collect() -> None:
        assert sink.stdout
        while len(came) < len(data):
            chunk = os.read(sink.stdout.fileno(), 1 << 16)
            if not chunk:
                break
            came.extend(chunk)
        done.set()

    def feed() -> None:
        assert source.stdin
        source.stdin.write(data)
        source.stdin.flush()

    workers = [threading.Thread(target=work, daemon=True) for work in (collect, feed)]
    for worker in workers:
        worker.start()
    if not done.wait(PATIENCE_S):
        pytest.fail(f'{place.way}: only {len(came)} of {len(data)} bytes came: {place.explain()}')
    for worker in workers:
        worker.join(PATIENCE_S)
    return hashlib.sha256(came).hexdigest()


@pytest.mark.parametrize('version', ['-tls1_2', '-tls1_3'])
@pytest.mark.parametrize('blocking', [False, True], ids=['nbio', 'blocking'])
def test_both_ways(somewhere: Place, version: str, *, blocking: bool) -> None:
    key, made = certificate(somewhere)
    port = free_port()
    options = () if blocking else ('-nbio',)
    server = somewhere.serve(
        port, 'openssl', 's_server', '-accept', f'127.0.0.1:{port}', '-key', key, '-cert', made, '-quiet', version,
        *options,
        stdin=PIPE, stdout=PIPE,
    )  # fmt: skip
    client = somewhere.start(
        'openssl', 's_client', '-connect', f'127.0.0.1:{port}', '-CAfile', made, '-verify_return_error', '-quiet',
        version, *options,
        stdin=PIPE, stdout=PIPE,
    )  # fmt: skip
    chance = random.Random(1)
    found = []
    for source, sink in ((client, server), (server, client)):
        # A part at a time first: of a stream whose reader never catches up nothing is redirected.
        for size in (*[1000] * 20, SIZE):
            data = chance.randbytes(size)
            found.append(carry(somewhere, source, sink, data))
            assert found[-1] == hashlib.sha256(data).hexdigest()
    name = f'openssl {version} {"blocking" if blocking else "-nbio"}'
    somewhere.same(name, '20 MB each way', found, redirected=not blocking)
