# SPDX-License-Identifier: GPL-2.0-or-later
"""A service that sends back what it gets. argv: a port; without it, the socket that systemd hands over."""

import asyncio
import signal
import socket
import sys

import sdnotify

# sd_listen_fds(3)
_LISTEN_FDS_START = 3


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main() -> None:
    if len(sys.argv) > 1:
        listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
    else:
        listener = socket.socket(fileno=_LISTEN_FDS_START)
    await asyncio.start_server(serve, sock=listener)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    sdnotify.SystemdNotifier().notify('READY=1')
    await stopped.wait()


if __name__ == '__main__':
    asyncio.run(main())
