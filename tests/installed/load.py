# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of echo.py that checks every byte, until SIGTERM; then a line of JSON tells how it went.

argv: port, connections, file for the report. A fault is a byte that is lost, doubled or changed, an error, or a
silence that does not end. Connections last until the end; `connections` counts them.
"""

import asyncio
import json
import random
import signal
import sys
from pathlib import Path

import sdnotify

from tests.support.patience import PATIENCE_S


async def converse(port: int, number: int, stopped: asyncio.Event) -> int:
    """Exchange batches of random sizes; returns the bytes that came back.

    Raises OSError, TimeoutError, ValueError.
    """
    dice = random.Random(number)
    reader, writer = await asyncio.wait_for(asyncio.open_connection('127.0.0.1', port), PATIENCE_S)
    count = 0
    while not stopped.is_set():
        pieces = [dice.randbytes(dice.choice((16, 600, 5000, 70000))) for _piece in range(dice.randint(1, 4))]
        batch = b''.join(pieces)
        echo = asyncio.ensure_future(reader.readexactly(len(batch)))
        for piece in pieces:
            writer.write(piece)
        await asyncio.wait_for(writer.drain(), PATIENCE_S)
        if await asyncio.wait_for(echo, PATIENCE_S) != batch:
            raise ValueError(f'bytes changed between {count} and {count + len(batch)}')
        count += len(batch)
    writer.write_eof()
    if rest := await asyncio.wait_for(reader.read(), PATIENCE_S):
        raise ValueError(f'{len(rest)} bytes came that nobody had sent')
    writer.close()
    return count


async def main() -> None:
    port, connections, report = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    tasks = [asyncio.create_task(converse(port, number, stopped)) for number in range(connections)]
    sdnotify.SystemdNotifier().notify('READY=1')
    results = await asyncio.gather(*tasks, return_exceptions=True)
    faults = [f'{type(result).__name__}: {result}' for result in results if isinstance(result, BaseException)]
    count = sum(result for result in results if isinstance(result, int))
    report.write_text(json.dumps({'connections': connections, 'bytes': count, 'faults': faults}))


if __name__ == '__main__':
    asyncio.run(main())
