# SPDX-License-Identifier: GPL-2.0-or-later
"""dbus-next's connection, repaired: it reads and sends as much as fits into a turn of the event loop."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from sockaccel.dbus import writer
from sockaccel.dbus.dbusnext import BusType, MessageBus
from sockaccel.dbus.inbox import Frame, Inbox
from sockaccel.dbus.message import Message, MessageType

# How long messages are looked at before all else in the event loop has its turn.
_TURN_S = 0.005

OnFrame = Callable[[Frame], None]


class Line(MessageBus):
    """Calls and signals go to `received`, see `Connection.on_call()`.

    takes_fds: whether descriptors that others send are wanted.
    """

    def __init__(self, received: OnFrame, *, takes_fds: bool) -> None:
        super().__init__(bus_type=BusType.SYSTEM, negotiate_unix_fd=True)
        self._writer.sock = writer.PatientSocket(self._sock)
        self._received = received
        self._inbox = Inbox(self._sock, takes_fds=takes_fds)
        self._frames: deque[Frame] = deque()

    def _message_reader(self) -> None:
        """Instead of dbus-next's, which reads as long as there is something to read."""
        try:
            if not self._frames:
                self._frames.extend(self._inbox.receive())
        except (EOFError, OSError) as exc:
            self._finalize(exc)
            return
        until = time.monotonic() + _TURN_S
        while self._frames:
            self._take(self._frames.popleft())
            if self._frames and time.monotonic() > until:
                # The socket may have nothing more to wake us with.
                self._loop.call_soon(self._go_on)
                return

    def _go_on(self) -> None:
        if self._frames and not self._disconnected:
            self._message_reader()

    def _take(self, frame: Frame) -> None:
        if frame.kind not in (MessageType.METHOD_RETURN.value, MessageType.ERROR.value):
            self._received(frame)
            return
        message, _unreadable = frame.read()
        waited_for = message.reply_serial in self._method_return_handlers
        self._on_message(message)
        if not waited_for:
            frame.close_fds()

    @property
    def lost(self) -> bool:
        return self._disconnected

    @property
    def unsent(self) -> int:
        return self._writer.messages.qsize()

    @property
    def behind(self) -> bool:
        return self._inbox.behind or bool(self._frames)

    def forget_call(self, serial: int) -> None:
        """An abandoned call would leave its handler behind for ever."""
        self._method_return_handlers.pop(serial, None)

    def when_lost(self, callback: Callable[[], None]) -> None:
        def ended(future: asyncio.Future[None]) -> None:
            if not future.cancelled():
                future.exception()
            callback()

        self._disconnect_future.add_done_callback(ended)

    def send(self, msg: Message) -> asyncio.Future[None]:
        if self._disconnected:
            sent: asyncio.Future[None] = self._loop.create_future()
            sent.set_result(None)
            return sent
        sent = super().send(msg)
        # Looks at the exception, so that asyncio does not complain that nobody did.
        sent.add_done_callback(lambda future: future.cancelled() or future.exception())
        return sent

    async def call(self, msg: Message) -> Message:
        """Raises EOFError, OSError."""
        if self._disconnected:
            raise EOFError
        reply = await super().call(msg)
        assert reply
        return reply

    async def call_raw(self, serial: int, data: bytes) -> Message:
        """The same for a call that is written already. Raises EOFError."""
        if self._disconnected:
            raise EOFError
        answer: asyncio.Future[Message] = self._loop.create_future()

        def answered(reply: Message | None, error: Exception | None) -> None:
            if not answer.done():
                answer.set_result(reply) if reply else answer.set_exception(error or EOFError())

        self._method_return_handlers[serial] = answered
        self.send_raw(data)
        return await answer

    def send_raw(self, data: bytes) -> None:
        if not self._disconnected:
            self._writer.messages.put_nowait((data, [], None))
            self._writer.schedule_write()

    def close(self) -> None:
        """dbus-next leaves all of them open, and tells nobody of what was not sent any more."""
        while not self._writer.messages.empty():
            _data, _fds, unsent = self._writer.messages.get_nowait()
            if unsent:
                unsent.cancel()
        for frame in self._frames:
            frame.close_fds()
        self._inbox.close()
        self._stream.close()
        self._sock.close()
