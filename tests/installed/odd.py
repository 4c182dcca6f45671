# SPDX-License-Identifier: GPL-2.0-or-later
"""A service that answers each message, and reads it in a way of its own. argv: the way, and a port.

asks: with ioctl(FIONREAD) before each recv(); answers what it said and what there was. discards: the first with
MSG_TRUNC. dontwait: without O_NONBLOCK, and with MSG_DONTWAIT; after the message "wait" once without.
"""

import fcntl
import selectors
import socket
import struct
import sys
import termios

import sdnotify

_CHUNK = 65536


class Reader:
    def __init__(self, end: socket.socket, way: str) -> None:
        self._end = end
        self._way = way
        self._flags = socket.MSG_TRUNC if way == 'discards' else 0
        # Without it the socket has no O_NONBLOCK.
        if way == 'dontwait':
            self._flags = socket.MSG_DONTWAIT
        else:
            end.setblocking(False)

    def answer(self) -> bool:
        """False at the end of file."""
        unread = 0
        if self._way == 'asks':
            unread = struct.unpack('i', fcntl.ioctl(self._end, termios.FIONREAD, bytes(4)))[0]
        try:
            data = self._end.recv(_CHUNK, self._flags)
        except BlockingIOError:
            return True
        if not data:
            return False
        if self._way == 'discards':
            self._flags = 0
        self._end.sendall(f'{unread} {len(data)}'.encode() if self._way == 'asks' else data)
        if data == b'wait':
            self._end.sendall(self._end.recv(_CHUNK))
        return True


def main() -> None:
    way, port = sys.argv[1], int(sys.argv[2])
    selector = selectors.DefaultSelector()
    with socket.create_server(('127.0.0.1', port)) as listener:
        selector.register(listener, selectors.EVENT_READ)
        sdnotify.SystemdNotifier().notify('READY=1')
        while True:
            for key, _events in selector.select():
                if key.fileobj is listener:
                    end, _address = listener.accept()
                    selector.register(end, selectors.EVENT_READ, Reader(end, way))
                elif not key.data.answer():
                    selector.unregister(key.fileobj)
                    assert isinstance(key.fileobj, socket.socket)
                    key.fileobj.close()


if __name__ == '__main__':
    main()
