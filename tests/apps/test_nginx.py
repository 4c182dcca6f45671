# SPDX-License-Identifier: GPL-2.0-or-later
"""Reverse proxies, nginx and haproxy, before an nginx.

nginx asks FIONREAD how much there is before it reads again (since 1.17.5, with epoll). Where the kernel answers
that wrongly, which the daemon finds out at its start (`fionread`), it waits for bytes that are there. That is why
Enable refuses on such a kernel. With the answer mended (fionread.c), and behind a proxy that does not ask, all
must be as it is without sockaccel.

nginx and haproxy are on the list of programs that are left alone, which is empty here.
"""

import hashlib
import http.client
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sockaccel.ctl.client import Refused
from sockaccel.ctl.exits import EX_REFUSED
from tests.apps.place import ACCELERATED, Place, free_port
from tests.support import harness
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.usefixtures('nothing_listed')

SIZES = {'one': 1, 'medium': 100_000, 'large': 50_000_000}
REQUESTS = {'one': 300, 'medium': 100, 'large': 2}
ISSUE = 'fionread'
NGINX_MENDED = 'nginx with FIONREAD mended'

_CONFIGURATION = """\
daemon off;
worker_processes 1;
user www-data;
pid {directory}/pid;
error_log stderr warn;
events {{ worker_connections 512; use epoll; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000;
    {body}
}}
"""
_BACKEND = 'server {{ listen 127.0.0.1:{port}; location / {{ root {root}; }} }}'
_FRONT = """
    upstream backend {{ server 127.0.0.1:{backend}; keepalive {kept}; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
"""
_HAPROXY = """\
defaults
    mode http
    timeout connect 120s
    timeout client 120s
    timeout server 120s
listen proxy
    bind 127.0.0.1:{port}
    http-reuse always
    server backend 127.0.0.1:{backend}
"""


@dataclass
class Files:
    root: Path
    hashes: dict[str, str]


def make_files(place: Place) -> Files:
    root, chance, hashes = place.directory(), random.Random(1), {}
    for name, size in SIZES.items():
        content = chance.randbytes(size)
        (root / name).write_bytes(content)
        hashes[name] = hashlib.sha256(content).hexdigest()
    return Files(root, hashes)


def serve_nginx(place: Place, body: str, port: int, environment: dict[str, str] | None = None) -> None:
    directory = place.directory()
    configuration = directory / 'nginx.conf'
    configuration.write_text(_CONFIGURATION.format(directory=directory, body=body))
    place.serve(port, 'nginx', '-e', 'stderr', '-c', configuration, '-p', directory, environment=environment)


def mended_fionread(place: Place) -> dict[str, str]:
    """The environment of a program for which FIONREAD is answered right."""
    library = place.directory() / 'fionread.so'
    source = Path(__file__).with_name('fionread.c')
    place.run('gcc', '-shared', '-fPIC', '-O2', '-Wall', '-Werror', '-o', library, source)
    return {'LD_PRELOAD': str(library)}


def proxied(place: Place, proxy: str, kept: int = 16) -> tuple[int, Files]:
    """The port of a proxy before a server of files. What is accelerated is what the two and our own client say.

    kept: how many idle connections nginx keeps to the server; those above are closed after each request.
    """
    files = make_files(place)
    backend = free_port()
    serve_nginx(place, _BACKEND.format(port=backend, root=files.root), backend)
    port = free_port(lambda port: port != backend)
    if proxy == 'haproxy':
        configuration = place.directory() / 'haproxy.cfg'
        configuration.write_text(_HAPROXY.format(port=port, backend=backend))
        place.serve(port, 'haproxy', '-db', '-f', configuration)
    else:
        environment = mended_fionread(place) if proxy == NGINX_MENDED else None
        serve_nginx(place, _FRONT.format(port=port, backend=backend, kept=kept), port, environment)
    return port, files


@dataclass
class Found:
    """right: responses per file; stalled: which did not come in time; wrong: what else was not as it should be."""

    right: dict[str, int] = field(default_factory=dict)
    stalled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def fetch_all(place: Place, port: int, files: Files, patience: float = PATIENCE_S) -> Found:
    """Fetch each file many times by one connection. patience: seconds after which a response has stalled."""
    found = Found()
    for name, count in REQUESTS.items():
        found.right[name] = 0
        with place.cgroup.inside():
            connection = http.client.HTTPConnection('127.0.0.1', port, timeout=patience)
            connection.connect()
        try:
            for _number in range(count):
                connection.request('GET', f'/{name}')
                if hashlib.sha256(connection.getresponse().read()).hexdigest() != files.hashes[name]:
                    found.wrong.append(f'{name} has another content')
                found.right[name] += 1
        except TimeoutError:
            found.stalled.append(f'{name}, after {found.right[name]} of {count}')
        except (OSError, http.client.HTTPException) as exc:
            found.wrong.append(f'{name}, after {found.right[name]} of {count}: {exc!r}')
        finally:
            connection.close()
    return found


def load(place: Place, port: int, name: str) -> tuple[float, int]:
    """Many connections at once by wrk; returns the responses per second, and the number of errors."""
    printed = place.run(
        'wrk', '--threads', '1', '--connections', '32', '--duration', '2', '--timeout', f'{PATIENCE_S:.0f}',
        f'http://127.0.0.1:{port}/{name}',
    )  # fmt: skip
    rate = re.search(r'Requests/sec: *([0-9.]+)', printed)
    assert rate, printed
    errors = re.search(r'Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)', printed)
    refused = re.search(r'Non-2xx or 3xx responses: (\d+)', printed)
    return float(rate[1]), sum(int(number) for match in (errors, refused) if match for number in match.groups())


@pytest.mark.parametrize('proxy', [NGINX_MENDED, 'haproxy'])
def test_proxy(somewhere: Place, proxy: str) -> None:
    port, files = proxied(somewhere, proxy)
    assert fetch_all(somewhere, port, files) == Found(REQUESTS), somewhere.explain()
    loads = {name: load(somewhere, port, name) for name in ('one', 'medium')}
    assert not any(errors for _rate, errors in loads.values()), loads
    somewhere.same(f'{proxy} -> nginx', f'same content, {_rates(loads)}', None)


def test_nginx(somewhere: Place) -> None:
    port, files = proxied(somewhere, 'nginx')
    may_stall = somewhere.way == ACCELERATED and ISSUE in harness.every_issue()
    # Where it may stall slowness looks the same, and fails nothing.
    found = fetch_all(somewhere, port, files, *((10,) if may_stall else ()))
    loads = {name: load(somewhere, port, name) for name in ('one', 'medium')}
    errors = sum(errors for _rate, errors in loads.values())
    assert not found.wrong, somewhere.explain()
    if may_stall:
        # Accepted for the target, but nobody gets there without having been told.
        with pytest.raises(Refused, match=ISSUE):
            harness.enable(somewhere.cgroup.path)
        refused = harness.control('enable', somewhere.cgroup.path)
        assert refused.returncode == EX_REFUSED
        assert f'--accept {ISSUE}' in refused.stderr
        if found.stalled or errors:
            somewhere.note('nginx -> nginx', f'STALLS ({ISSUE}): {"; ".join(found.stalled)}')
            return
    assert found == Found(REQUESTS), somewhere.explain()
    assert not errors, loads
    somewhere.same('nginx -> nginx', f'same content, {_rates(loads)}', None)


def _rates(loads: dict[str, tuple[float, int]]) -> str:
    return ', '.join(f'{rate / 1000:.1f}k/s' for rate, _errors in loads.values())
