# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that makes itself a TCP socket with sequence numbers of its choice, as an attacker may.

TCP_REPAIR lets it choose what its socket counts from, and it plays the other end itself, on a TUN device. An
ordinary user may do that in a user and a network namespace of its own. Nothing of it goes over any wire.

    forger.py DEVICE connecting|fast-open|accepting

fast-open: it connects with a byte in its SYN.

DEVICE is /dev/net/tun, or another node of it that one may open. The first line of its standard input is the two
initial sequence numbers that it sends and receives. It answers "established" when it has the socket, and then each
line by what the socket has received so far, in hexadecimal.
"""

import fcntl
import os
import select
import socket
import struct
import sys
import threading

# linux/if_tun.h, linux/tcp.h
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
TCP_SEND_QUEUE = 2
TCP_FASTOPEN_NO_COOKIE = 34
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS, IFF_UP = 0x8916, 0x891C, 0x8914, 1
OURS, THEIRS, PORT = '10.77.0.1', '10.77.0.2', 5
SYN, ACK = 0x02, 0x10


def device(node: str) -> int:
    """A TUN device with our address. Raises OSError."""
    tun = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack('16sH22x', b'tun0', IFF_TUN | IFF_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, address in ((SIOCSIFADDR, OURS), (SIOCSIFNETMASK, '255.255.255.0')):
            value = struct.pack('=HH4s8x', socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(control, request, struct.pack('16s16s8x', b'tun0', value))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack('16sH22x', b'tun0', IFF_UP))
    return tun


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def packet(port: int, sequence: int, acknowledged: int, flags: int) -> bytes:
    """An IPv4 packet with a TCP segment from the other end."""
    source, destination = socket.inet_aton(THEIRS), socket.inet_aton(OURS)
    segment = struct.pack(
        '!HHIIBBHHH', PORT, port, sequence % 2**32, acknowledged % 2**32, 0x50, flags, 65535, 0, 0
    )
    pseudo = source + destination + struct.pack('!HH', socket.IPPROTO_TCP, len(segment))
    segment = segment[:16] + struct.pack('!H', checksum(pseudo + segment)) + segment[18:]
    header = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(segment), 0, 0, 64, 6, 0) + source + destination
    return header[:10] + struct.pack('!H', checksum(header)) + header[12:] + segment


def play_the_other_end(tun: int, first: int, *, simultaneous: bool) -> None:
    """Answer the SYN, and what comes after it by acknowledging it. first: our initial sequence number.

    simultaneous: by a SYN as of an end that connects too, so that the forged socket becomes an accepting end
    (tcp_rcv_synsent_state_process() in net/ipv4/tcp_input.c).
    """
    while True:
        got = os.read(tun, 2000)
        if got[0] >> 4 != 4 or got[9] != socket.IPPROTO_TCP:
            continue
        port, _port, sequence, _ack, offset, flags = struct.unpack('!HHIIBB', got[20:34])
        data = len(got) - 20 - (offset >> 4) * 4
        if flags & SYN and not flags & ACK:
            acknowledged = 0 if simultaneous else sequence + 1 + data
            os.write(tun, packet(port, first, acknowledged, SYN | (0 if simultaneous else ACK)))
        elif flags & SYN:
            os.write(tun, packet(port, first + 1, sequence + 1, ACK))
        elif data:
            os.write(tun, packet(port, first + 1, sequence + data, ACK))


def forge(tun: int, role: str, sent: int, received: int) -> socket.socket:
    """An established socket with these initial sequence numbers. Raises OSError."""
    arguments = {'tun': tun, 'first': received, 'simultaneous': role == 'accepting'}
    threading.Thread(target=play_the_other_end, kwargs=arguments, daemon=True).start()
    forged = socket.socket()
    forged.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    forged.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)
    # The SYN takes this one.
    forged.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack('=I', sent % 2**32))
    forged.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
    if role == 'fast-open':
        forged.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
        forged.sendto(b'.', socket.MSG_FASTOPEN, (THEIRS, PORT))
        select.select([], [forged], [])
    else:
        forged.connect((THEIRS, PORT))
    forged.setblocking(False)
    return forged


def main() -> None:
    node, role = sys.argv[1:]
    tun = device(node)
    print('ready', flush=True)
    sent, received = map(int, sys.stdin.readline().split())
    forged = forge(tun, role, sent, received)
    print('established', flush=True)
    while sys.stdin.readline():
        got = b''
        while select.select([forged], [], [], 0)[0] and (data := forged.recv(65536)):
            got += data
        print(got.hex(), flush=True)


if __name__ == '__main__':
    main()
