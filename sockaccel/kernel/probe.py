# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds out what this kernel does to sockets in a sockhash, by trying it on a connection of the daemon's own."""

import errno
import fcntl
import select
import socket
import struct
import termios
from collections.abc import Mapping

from sockaccel.core.finding import Finding
from sockaccel.errors import UnsupportedKernel
from sockaccel.kernel import libbpf

_U32 = struct.Struct('=I')
_U64 = struct.Struct('=Q')
# Keys of the two sockets in sa_probe_pair (bpf/probe.c).
_SENDER, _RECEIVER = 0, 1
# asm-generic/socket.h. The option is an array of u32, of which the first is sk_rmem_alloc (linux/sock_diag.h).
_SO_MEMINFO = 55
# linux/tcp.h, linux/tls.h
_TCP_ULP = 31
_SOL_TLS, _TLS_TX, _TLS_1_2, _AES_GCM_128 = 282, 1, 0x0303, 51
_PATIENCE_MS = 2000


def probe(fds: Mapping[str, int]) -> list[Finding]:
    """Try the kernel. fds: those of the loader. Raises UnsupportedKernel if acceleration would not be safe."""
    findings = []
    libbpf.attach_map(fds['sockaccel_probe'], fds['sa_probe_pair'], libbpf.BPF_SK_MSG_VERDICT)
    sender, receiver = _pair()
    with sender, receiver:
        for key, end in ((_SENDER, sender), (_RECEIVER, receiver)):
            try:
                libbpf.map_update(fds['sa_probe_pair'], _U64.pack(key), _U32.pack(end.fileno()))
            except OSError as exc:
                raise UnsupportedKernel(
                    f'the kernel does not take a connected TCP socket into a sockhash ({exc.strerror}): it needs '
                    'CONFIG_BPF_STREAM_PARSER'
                ) from exc
        _redirect(fds, on=False)
        tcp_bytes = _unread_after(sender, receiver, b'by TCP')
        _redirect(fds, on=True)
        redirected_bytes = _unread_after(sender, receiver, b'redirected', expect_accounting=True)
        findings.append(
            Finding('backlog', 'ok', 'unread redirected bytes are accounted, so a slow reader stops its sender')
        )
        findings.append(
            _fionread(
                tcp_right=tcp_bytes == len(b'by TCP'), redirected_right=redirected_bytes == len(b'redirected')
            )
        )
        findings.append(_ktls(sender))
    return findings


def _pair() -> tuple[socket.socket, socket.socket]:
    try:
        with socket.create_server(('127.0.0.1', 0)) as listener:
            sender = socket.create_connection(listener.getsockname(), timeout=_PATIENCE_MS / 1000)
            receiver, _address = listener.accept()
    except OSError as exc:
        raise UnsupportedKernel(
            f'cannot make a TCP connection over 127.0.0.1 ({exc.strerror or exc}): the start-up probes need the '
            'loopback interface to be up'
        ) from exc
    sender.setblocking(False)
    receiver.setblocking(False)
    return sender, receiver


def _redirect(fds: Mapping[str, int], *, on: bool) -> None:
    libbpf.map_update(fds['sa_probe_mode'], _U32.pack(0), _U32.pack(on))


def _unread_after(
    sender: socket.socket, receiver: socket.socket, message: bytes, *, expect_accounting: bool = False
) -> int:
    """Send a message, ask FIONREAD for the unread bytes, read the message. Returns what FIONREAD said.

    expect_accounting: also check that the kernel counts the message in the receiver's memory. Raises
    UnsupportedKernel.
    """
    try:
        sender.sendall(message)
    except OSError as exc:
        raise UnsupportedKernel(
            f'this kernel fails a send() on a socket in a sockhash ({exc.strerror}); it would break programs'
        ) from exc
    poll = select.poll()
    poll.register(receiver, select.POLLIN)
    if not poll.poll(_PATIENCE_MS):
        raise UnsupportedKernel('this kernel loses bytes of a socket in a sockhash: use kernel 6.1.123 or newer')
    if expect_accounting:
        memory = _U32.unpack(receiver.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _U32.size))[0]
        if not memory:
            raise UnsupportedKernel(
                'this kernel does not account redirected bytes to the receiver (sk_rmem_alloc stays 0), so a slow '
                'reader could not stop its sender and would take all memory: use kernel 6.1.123, 6.12.8 or newer'
            )
    unread = int(struct.unpack('i', fcntl.ioctl(receiver, termios.FIONREAD, b'\0' * 4))[0])
    if receiver.recv(len(message)) != message:
        raise UnsupportedKernel('this kernel reorders bytes of a socket in a sockhash: use 6.1.123 or newer')
    return unread


def _fionread(*, tcp_right: bool, redirected_right: bool) -> Finding:
    if tcp_right and redirected_right:
        return Finding('fionread', 'ok', 'FIONREAD counts all unread bytes of an accelerated socket')
    wrong = 'bytes that came by TCP' if not tcp_right else 'redirected bytes'
    return Finding(
        'fionread', 'issue',
        f'this kernel answers ioctl(FIONREAD) with 0 for {wrong} of an accelerated socket; programs that ask it '
        'before they read can stall, nginx, Java and .NET among them',
    )  # fmt: skip


def _ktls(end: socket.socket) -> Finding:
    """Try to set up kernel TLS on a socket that is in a sockhash (net/tls/tls_main.c)."""
    try:
        end.setsockopt(socket.IPPROTO_TCP, _TCP_ULP, b'tls')
        end.setsockopt(_SOL_TLS, _TLS_TX, struct.pack('=HH', _TLS_1_2, _AES_GCM_128) + bytes(36))
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.EPERM):
            return Finding('ktls', 'ok', 'this kernel offers no kernel TLS')
        return Finding(
            'ktls', 'note', f'kernel TLS cannot be set up on an accelerated socket ({exc.strerror}); '
            'programs fall back to TLS of their own',
        )  # fmt: skip
    return Finding('ktls', 'ok', 'kernel TLS can be set up; such connections are left to TCP')
