# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs beside Envoy, in a container too: serves a page, or fetches it and says who answered and what came.

web.py serve PORT
web.py fetch HOST PORT   prints "SERVER DIGEST", or the name of the error that connect() ends with
"""

import errno
import hashlib
import http.client
import http.server
import sys
from typing import Any

BODY = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(BODY).hexdigest()
# What http.server calls itself begins with it.
APP = 'BaseHTTP'


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self) -> None:  # noqa: N802
        self.send_response(200)
        self.send_header('Content-Length', str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_arguments: Any) -> None:
        pass


def fetch(host: str, port: int) -> str:
    connection = http.client.HTTPConnection(host, port)
    try:
        connection.request('GET', '/')
        answer = connection.getresponse()
        server = (answer.getheader('Server') or '').partition('/')[0]
        return f'{server} {hashlib.sha256(answer.read()).hexdigest()}'
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, type(exc).__name__)
    finally:
        connection.close()


if __name__ == '__main__':
    if sys.argv[1] == 'serve':
        http.server.ThreadingHTTPServer(('', int(sys.argv[2])), Handler).serve_forever()
    else:
        print(fetch(sys.argv[2], int(sys.argv[3])))
