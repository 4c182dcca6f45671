# SPDX-License-Identifier: GPL-2.0-or-later
"""One request of HTTP on stdin, answered on stdout with the metrics: for a socket unit with Accept=yes."""

import argparse
import re
import sys
from http import HTTPStatus
from typing import BinaryIO

from sockaccel.ctl.client import Client
from sockaccel.ctl.exits import EX_OK
from sockaccel.ctl.metrics import CONTENT_TYPES, OPENMETRICS, PROMETHEUS, read

# Of the request line and the headers, all together.
_MAXIMUM_BYTES = 16 * 1024
_REQUEST = re.compile(rb'(GET|HEAD) (/\S*) HTTP/1\.[01]\r?\n')


async def scrape(client: Client, _options: argparse.Namespace) -> int:
    """Raises what `metrics.read` raises."""
    status, head = _read_request(sys.stdin.buffer)
    body, content_type = f'{status.value} {status.phrase}\n', 'text/plain; charset=utf-8'
    if status is HTTPStatus.OK:
        form = OPENMETRICS if b'application/openmetrics-text' in head else PROMETHEUS
        body, content_type = (await read(client, form))[0], CONTENT_TYPES[form]
    packed = body.encode()
    answer = (
        f'HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n'
        f'Content-Length: {len(packed)}\r\nConnection: close\r\n\r\n'
    ).encode()
    sys.stdout.buffer.write(answer + (b'' if head.startswith(b'HEAD') else packed))
    sys.stdout.buffer.flush()
    return EX_OK


def _read_request(stream: BinaryIO) -> tuple[HTTPStatus, bytes]:
    """What to answer, and the request as far as it was read."""
    head = b''
    while line := stream.readline(_MAXIMUM_BYTES - len(head)):
        head += line
        if not line.strip():
            break
        if len(head) >= _MAXIMUM_BYTES:
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, head
    else:
        return HTTPStatus.BAD_REQUEST, head
    found = _REQUEST.match(head)
    if not found:
        return HTTPStatus.BAD_REQUEST, head
    path = found[2].partition(b'?')[0]
    return (HTTPStatus.OK if path == b'/metrics' else HTTPStatus.NOT_FOUND), head
