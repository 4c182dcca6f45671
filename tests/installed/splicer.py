# SPDX-License-Identifier: GPL-2.0-or-later
"""A proxy that copies by splice(2) alone, as those in Go do. argv: its port, and the port that it connects to."""

import os
import select
import socket
import sys
import threading

import sdnotify

_CHUNK = 65536


def copy(source: socket.socket, sink: socket.socket) -> None:
    """One way, to the end of file."""
    read_end, write_end = os.pipe()
    poll = select.poll()
    poll.register(source, select.POLLIN)
    while True:
        poll.poll()
        try:
            count = os.splice(source.fileno(), write_end, _CHUNK)
        except BlockingIOError:
            continue
        if not count:
            break
        while count:
            try:
                count -= os.splice(read_end, sink.fileno(), count)
            except BlockingIOError:
                select.select([], [sink], [])
    sink.shutdown(socket.SHUT_WR)
    os.close(read_end)
    os.close(write_end)


def serve(front: socket.socket, port: int) -> None:
    with front, socket.create_connection(('127.0.0.1', port)) as back:
        for each in (front, back):
            each.setblocking(False)
        answers = threading.Thread(target=copy, args=(back, front))
        answers.start()
        copy(front, back)
        answers.join()


def main() -> None:
    with socket.create_server(('127.0.0.1', int(sys.argv[1]))) as listener:
        sdnotify.SystemdNotifier().notify('READY=1')
        while True:
            front, _address = listener.accept()
            threading.Thread(target=serve, args=(front, int(sys.argv[2])), daemon=True).start()


if __name__ == '__main__':
    main()
