# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls and constants that Python's socket and os modules hide, repair or lack."""

import ctypes
import errno
import fcntl
import os
import platform
import socket
import struct
from pathlib import Path

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

SO_PEEK_OFF = 42
SO_MEMINFO = 55
SO_ZEROCOPY = 60
SO_TIMESTAMPNS = 35
MSG_ZEROCOPY = 0x4000000
MSG_FASTOPEN = 0x20000000
TCP_ULP = 31
TCP_ZEROCOPY_RECEIVE = 35
TCP_INQ = 36
SIOCINQ = 0x541B
SIOCOUTQ = 0x5411
SIOCATMARK = 0x8905
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
SPLICE_F_NONBLOCK = 2
IPPROTO_MPTCP = 262

SYS_BPF = {'x86_64': 321, 'aarch64': 280}
# enum bpf_cmd, enum bpf_prog_type and enum bpf_attach_type (linux/bpf.h)
BPF_PROG_LOAD, BPF_LINK_CREATE, BPF_PROG_TYPE_CGROUP_SKB = 5, 28, 8
CGROUP_INET_INGRESS, CGROUP_INET_EGRESS = 0, 1

libc = ctypes.CDLL(None, use_errno=True)
libc.recv.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.recv.restype = ctypes.c_ssize_t
libc.send.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.send.restype = ctypes.c_ssize_t
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mmap.restype = ctypes.c_void_p
libc.vmsplice.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint]
libc.vmsplice.restype = ctypes.c_ssize_t


class IoVec(ctypes.Structure):
    _fields_ = (('base', ctypes.c_void_p), ('length', ctypes.c_size_t))


class MsgHdr(ctypes.Structure):
    _fields_ = (
        ('name', ctypes.c_void_p),
        ('namelen', ctypes.c_uint32),
        ('iov', ctypes.POINTER(IoVec)),
        ('iovlen', ctypes.c_size_t),
        ('control', ctypes.c_void_p),
        ('controllen', ctypes.c_size_t),
        ('flags', ctypes.c_int),
    )


class MMsgHdr(ctypes.Structure):
    _fields_ = (('hdr', MsgHdr), ('length', ctypes.c_uint32))


def errno_name(number: int) -> str:
    return errno.errorcode.get(number, str(number))


def checked(result: int, call: str) -> int:
    """The result, or OSError with what the call left in errno."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f'{call}: {os.strerror(number)}')
    return result


def raw_recv(fd: int, count: int, flags: int = 0) -> bytes | str:
    """One recv(2), which unlike Python's is not repeated after a signal: the data or the errno's name."""
    buffer = ctypes.create_string_buffer(count)
    result = libc.recv(fd, buffer, count, flags)
    return errno_name(ctypes.get_errno()) if result < 0 else buffer.raw[:result]


def raw_send(fd: int, data: bytes, flags: int = socket.MSG_NOSIGNAL) -> int | str:
    """One send(2), not repeated after a signal: the count or the errno's name."""
    result: int = libc.send(fd, data, len(data), flags)
    return errno_name(ctypes.get_errno()) if result < 0 else result


def recv_discard(fd: int, count: int) -> int | str:
    """recv(2) without a buffer and with MSG_TRUNC, which throws data away: the count or the errno's name."""
    result: int = libc.recv(fd, None, count, socket.MSG_TRUNC)
    return errno_name(ctypes.get_errno()) if result < 0 else result


def send_from_address(fd: int, address: int, count: int) -> int | str:
    """send(2) from an address that need not be mapped: the count or the errno's name."""
    result: int = libc.send(fd, address, count, socket.MSG_NOSIGNAL)
    return errno_name(ctypes.get_errno()) if result < 0 else result


def _headers(buffers: list[ctypes.Array[ctypes.c_char]], sizes: list[int]) -> 'ctypes.Array[MMsgHdr]':
    headers = (MMsgHdr * len(buffers))()
    for header, buffer, size in zip(headers, buffers, sizes, strict=True):
        header.hdr.iov = ctypes.pointer(IoVec(ctypes.addressof(buffer), size))
        header.hdr.iovlen = 1
    return headers


def sendmmsg(fd: int, messages: list[bytes]) -> int:
    """sendmmsg(2): how many of the messages were sent. Raises OSError."""
    buffers = [ctypes.create_string_buffer(message, len(message)) for message in messages]
    headers = _headers(buffers, [len(message) for message in messages])
    return checked(libc.sendmmsg(fd, headers, len(messages), socket.MSG_NOSIGNAL), 'sendmmsg')


def recvmmsg(fd: int, count: int, size: int, flags: int = 0) -> list[bytes]:
    """recvmmsg(2) into count buffers of size bytes: what came into each. Raises OSError."""
    buffers = [ctypes.create_string_buffer(size) for _ in range(count)]
    headers = _headers(buffers, [size] * count)
    filled = checked(libc.recvmmsg(fd, headers, count, flags, None), 'recvmmsg')
    return [buffer.raw[: header.length] for buffer, header in zip(buffers[:filled], headers, strict=False)]


def vmsplice(pipe: int, data: bytes) -> int:
    """vmsplice(2) of the data into a pipe: the count. The data must live until it is read. Raises OSError."""
    vector = IoVec(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data))
    return checked(libc.vmsplice(pipe, ctypes.byref(vector), 1, 0), 'vmsplice')


def disconnect(sock: socket.socket) -> None:
    """connect(2) to AF_UNSPEC. Raises OSError."""
    address = struct.pack('=H14x', socket.AF_UNSPEC)
    checked(libc.connect(sock.fileno(), address, len(address)), 'connect')


def new_network() -> None:
    """Enter a network namespace with nothing but an upped loopback device. Raises OSError."""
    checked(libc.unshare(CLONE_NEWNET), 'unshare')
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack('16sH14x', b'lo', IFF_UP))


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2). Raises OSError, or KeyError on an architecture whose number of it is not known here."""
    buffer = ctypes.create_string_buffer(attributes, 128)
    number = SYS_BPF[platform.machine()]
    return checked(libc.syscall(number, command, ctypes.byref(buffer), len(buffer)), 'bpf')


def load_dropping_program(attach_type: int) -> int:
    """A program for packets of a cgroup that drops them all: its descriptor. Raises OSError."""
    # r0 = 0; exit
    code = ctypes.create_string_buffer(struct.pack('=BBhiBBhi', 0xB7, 0, 0, 0, 0x95, 0, 0, 0), 16)
    licence = ctypes.create_string_buffer(b'GPL')
    fields = (BPF_PROG_TYPE_CGROUP_SKB, 2, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0, 0)
    return bpf(BPF_PROG_LOAD, struct.pack('=IIQQIIQII16xII', *fields, 0, attach_type))


def link_to_cgroup(program: int, cgroup: Path, attach_type: int) -> int:
    """The descriptor of a link, with which the program's attachment ends. Raises OSError."""
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return bpf(BPF_LINK_CREATE, struct.pack('=IIII', program, directory, attach_type, 0))
    finally:
        os.close(directory)


def prctl(option: int, value: int) -> None:
    checked(libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), 'prctl')


def blocked_on(thread: int, fd: int) -> bool:
    """Whether the thread sleeps in a system call whose first argument is the descriptor."""
    task = Path(f'/proc/self/task/{thread}')
    try:
        call = (task / 'syscall').read_text().split()
        state = (task / 'stat').read_text().rpartition(')')[2].split()[0]
    except OSError:
        return False
    return len(call) > 2 and int(call[1], 16) == fd and state == 'S'


def queued(sock: socket.socket, request: int) -> int:
    """SIOCINQ, SIOCOUTQ or SIOCATMARK."""
    answer: int = struct.unpack('i', fcntl.ioctl(sock, request, bytes(4)))[0]
    return answer


class TcpInfo:
    """The parts of struct tcp_info (linux/tcp.h) that the tests look at, taken at one moment.

    The kernel takes the socket's lock for them (tcp_get_info() in net/ipv4/tcp.c): what the last segment changed
    has been changed.
    """

    def __init__(self, sock: socket.socket) -> None:
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256).ljust(256, b'\0')
        self.state = raw[0]
        # How often TCP has doubled its time-out since anything was acknowledged.
        self.backoff = raw[4]
        self.options = raw[5]
        # Segments that TCP has sent and that were not acknowledged yet.
        self.unacknowledged = int.from_bytes(raw[24:28], 'little')
        self.retransmissions = int.from_bytes(raw[100:104], 'little')
        self.bytes_received = int.from_bytes(raw[128:136], 'little')
        self.data_segments_in = int.from_bytes(raw[152:156], 'little')
        self.data_segments_out = int.from_bytes(raw[156:160], 'little')
        self.segments_in = int.from_bytes(raw[140:144], 'little')
        self.unsent_bytes = int.from_bytes(raw[144:148], 'little')
        self.bytes_sent = int.from_bytes(raw[200:208], 'little')
