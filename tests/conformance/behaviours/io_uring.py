# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets driven by io_uring."""

import ctypes
import errno
import mmap
import os
import socket
import struct
from typing import NamedTuple

from tests.conformance import syscalls
from tests.conformance.bench import Bench, Unsupported, pattern, verdict
from tests.conformance.catalogue import BOTH, Observation, behaviour
from tests.support.patience import PATIENCE_S

# The numbers are the same on every architecture.
IO_URING_SETUP, IO_URING_ENTER = 425, 426
IORING_OFF_SQ_RING, IORING_OFF_CQ_RING, IORING_OFF_SQES = 0, 0x8000000, 0x10000000
IORING_ENTER_GETEVENTS = 1
IORING_OP_SEND, IORING_OP_RECV, IORING_OP_LINK_TIMEOUT, IORING_OP_SEND_ZC = 26, 27, 15, 47
IOSQE_IO_LINK = 1 << 2
IORING_CQE_F_NOTIF = 1 << 3
ENTRIES = 8
SQE_SIZE, CQE_SIZE = 64, 16


class Completion(NamedTuple):
    tag: int
    result: int
    flags: int

    @property
    def outcome(self) -> int | str:
        return syscalls.errno_name(-self.result) if self.result < 0 else self.result


class Ring:
    """A submission and a completion queue of a few entries, driven from one thread."""

    def __init__(self) -> None:
        parameters = ctypes.create_string_buffer(120)
        try:
            self._fd = syscalls.checked(
                syscalls.libc.syscall(IO_URING_SETUP, ENTRIES, parameters), 'io_uring_setup'
            )
        except OSError as error:
            raise Unsupported(f'io_uring: {error}') from error
        fields = struct.unpack('30I', parameters.raw)
        sq_entries, cq_entries = fields[0], fields[1]
        _, self._sq_tail, self._sq_mask, _, _, _, self._sq_array = fields[10:17]
        self._cq_head, self._cq_tail, self._cq_mask, _, _, self._cqes = fields[20:26]
        self._sq = mmap.mmap(self._fd, self._sq_array + 4 * sq_entries, offset=IORING_OFF_SQ_RING)
        self._cq = mmap.mmap(self._fd, self._cqes + CQE_SIZE * cq_entries, offset=IORING_OFF_CQ_RING)
        self._sqe = mmap.mmap(self._fd, SQE_SIZE * sq_entries, offset=IORING_OFF_SQES)
        self._timeout = ctypes.create_string_buffer(struct.pack('qq', int(PATIENCE_S), 0))

    def _number(self, ring: mmap.mmap, offset: int) -> int:
        value: int = struct.unpack_from('I', ring, offset)[0]
        return value

    def _push(
        self, opcode: int, flags: int, fd: int, address: int, length: int, message_flags: int, tag: int
    ) -> None:
        tail = self._number(self._sq, self._sq_tail)
        index = tail & self._number(self._sq, self._sq_mask)
        entry = struct.pack('BBHiQQIIQ24x', opcode, flags, 0, fd, 0, address, length, message_flags, tag)
        self._sqe[index * SQE_SIZE : (index + 1) * SQE_SIZE] = entry
        struct.pack_into('I', self._sq, self._sq_array + 4 * index, index)
        struct.pack_into('I', self._sq, self._sq_tail, tail + 1)

    def start(
        self, opcode: int, sock: socket.socket, buffer: 'ctypes.Array[ctypes.c_char]', flags: int = 0
    ) -> None:
        """Submit one operation that is cancelled when it takes too long. The buffer must live until its end."""
        self._push(opcode, IOSQE_IO_LINK, sock.fileno(), ctypes.addressof(buffer), len(buffer), flags, opcode)
        self._push(IORING_OP_LINK_TIMEOUT, 0, -1, ctypes.addressof(self._timeout), 1, 0, 0)
        self._enter(2, 0)

    def _enter(self, submit: int, wait: int) -> None:
        call = (IO_URING_ENTER, self._fd, submit, wait, IORING_ENTER_GETEVENTS, None, 0)
        syscalls.checked(syscalls.libc.syscall(*call), 'io_uring_enter')

    def completion(self) -> Completion:
        """The next completion that is not a time-out's own."""
        while True:
            head = self._number(self._cq, self._cq_head)
            if head == self._number(self._cq, self._cq_tail):
                self._enter(0, 1)
                continue
            index = head & self._number(self._cq, self._cq_mask)
            completion = Completion(*struct.unpack_from('QiI', self._cq, self._cqes + CQE_SIZE * index))
            struct.pack_into('I', self._cq, self._cq_head, head + 1)
            if completion.tag:
                return completion

    def close(self) -> None:
        os.close(self._fd)


def received(ring: Ring, buffer: 'ctypes.Array[ctypes.c_char]') -> str | int:
    completion = ring.completion()
    return completion.outcome if completion.result < 0 else buffer.raw[: completion.result].decode('latin-1')


@behaviour('io_uring: RECV before and after the data has come', readers=BOTH)
def recv(bench: Bench) -> Observation:
    pair = bench.pair()
    ring, buffer = Ring(), ctypes.create_string_buffer(100)
    # On a non-blocking socket RECV does not wait, so there only the second half is worth looking at.
    before: str | int = 'not tried'
    if not bench.nonblocking:
        ring.start(IORING_OP_RECV, pair.server, buffer)
        bench.write_all(pair.client, b'data')
        before = received(ring, buffer)
    bench.write_all(pair.client, b'more')
    bench.readable(pair.server)
    ring.start(IORING_OP_RECV, pair.server, buffer)
    return {'waiting': before, 'data there': received(ring, buffer)}


@behaviour('io_uring: RECV with MSG_WAITALL of two messages', readers=BOTH)
def recv_all(bench: Bench) -> Observation:
    pair = bench.pair()
    ring, buffer = Ring(), ctypes.create_string_buffer(10)
    bench.write_all(pair.client, b'first')
    bench.readable(pair.server)
    ring.start(IORING_OP_RECV, pair.server, buffer, socket.MSG_WAITALL)
    bench.write_all(pair.client, b'other')
    return {'RECV gives': received(ring, buffer)}


@behaviour('io_uring: SEND, and the peer reads', readers=BOTH)
def send(bench: Bench) -> Observation:
    pair = bench.pair()
    sent = pattern(50_000)
    ring, buffer = Ring(), ctypes.create_string_buffer(sent, len(sent))
    ring.start(IORING_OP_SEND, pair.client, buffer)
    result = ring.completion().outcome
    return {'SEND gives': result, 'the server reads': verdict(bench.read_bytes(pair.server, len(sent)), sent)}


@behaviour('io_uring: SEND_ZC from the connecting side', readers=BOTH, control_fails=True)
def send_zerocopy(bench: Bench) -> Observation:
    pair = bench.pair()
    sent = pattern(50_000)
    ring, buffer = Ring(), ctypes.create_string_buffer(sent, len(sent))
    ring.start(IORING_OP_SEND_ZC, pair.client, buffer)
    completion = ring.completion()
    if completion.result == -errno.EINVAL:
        raise Unsupported('SEND_ZC of io_uring')
    if completion.result < 0:
        return {'SEND_ZC gives': completion.outcome}
    content = verdict(bench.read_bytes(pair.server, len(sent)), sent)
    notified = bool(ring.completion().flags & IORING_CQE_F_NOTIF)
    return {'SEND_ZC gives': completion.outcome, 'the server reads': content, 'notified': notified}
