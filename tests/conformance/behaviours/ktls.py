# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS in the kernel."""

import socket
import struct
import time

from tests.conformance import syscalls
from tests.conformance.bench import Bench, Unsupported, outcome
from tests.conformance.catalogue import BOTH, Observation, behaviour

SOL_TLS = 282
TLS_TX, TLS_RX = 1, 2
TLS_1_2, AES_GCM_128 = 0x0303, 51
# struct tls12_crypto_info_aes_gcm_128: version, cipher, iv, key, salt, record number
CRYPTO_INFO = struct.pack('HH8s16s4s8s', TLS_1_2, AES_GCM_128, b'initvect', b'sixteen byte key', b'salt', bytes(8))
# In tests/conftest.py, and no less anywhere.
JOIN_DELAY_S = 0.1
APPLICATION_DATA = b'\x17\x03\x03'


def set_up(sock: socket.socket, direction: int) -> str:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, syscalls.TCP_ULP, b'tls')
        sock.setsockopt(SOL_TLS, direction, CRYPTO_INFO)
    except FileNotFoundError as error:
        raise Unsupported('this kernel has no kTLS') from error
    except OSError as error:
        return syscalls.errno_name(error.errno or 0)
    return 'done'


@behaviour('kTLS: set up on a connection in use, one end encrypts', readers=BOTH, control_fails=True)
def sender_only(bench: Bench) -> Observation:
    pair = bench.pair()
    result = set_up(pair.client, TLS_TX)
    if result != 'done':
        return {'set-up': result}
    bench.write_all(pair.client, b'secret')
    record = bench.read(pair.server).encode('latin-1')
    return {
        'set-up': result,
        'the peer gets a TLS record': record.startswith(APPLICATION_DATA),
        'the peer gets plain text': b'secret' in record,
    }


@behaviour('kTLS: set up on a new connection, both ends', readers=BOTH, control_fails=True)
def both_ends(bench: Bench) -> Observation:
    listener = bench.listen()
    while True:
        began = time.monotonic()
        client = bench.connect(listener)
        server = bench.accept(listener)
        results = [set_up(client, TLS_TX), set_up(server, TLS_RX)]
        # An accelerated connection may join after so long (JoinDelayMs=): a try that took longer shows nothing.
        if results == ['done', 'done'] or time.monotonic() - began < JOIN_DELAY_S:
            break
    if results != ['done', 'done']:
        return {'set-up': results}
    bench.write_all(client, b'secret')
    return {'set-up': results, 'the server reads': outcome(lambda: bench.read(server))}
