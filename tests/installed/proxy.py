# SPDX-License-Identifier: GPL-2.0-or-later
"""A service that tells each client where it wanted to go, as SO_ORIGINAL_DST says. argv: ports of 127.0.0.1."""

import asyncio
import socket
import struct
import sys

import sdnotify

# linux/netfilter_ipv4.h
SO_ORIGINAL_DST = 80


async def tell(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    accepted = writer.get_extra_info('socket')
    try:
        answer = accepted.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        said = f'{socket.inet_ntoa(answer[4:8])}:{struct.unpack_from("!H", answer, 2)[0]}'
    except OSError as exc:
        said = str(exc)
    writer.write(f'proxy: {said}'.encode())
    await writer.drain()
    writer.close()


async def main() -> None:
    for port in sys.argv[1:]:
        await asyncio.start_server(tell, '127.0.0.1', int(port))
    sdnotify.SystemdNotifier().notify('READY=1')
    await asyncio.get_running_loop().create_future()


if __name__ == '__main__':
    asyncio.run(main())
