# SPDX-License-Identifier: GPL-2.0-or-later
"""Where an accelerated connection differs from plain TCP and no rule of ours can help it.

Each entry is a promise in two directions: nothing else may differ, and what is certain here must be seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.conformance.bench import IN_USE
from tests.conformance.catalogue import BOTH, NONBLOCKING, Case
from tests.conformance.networks import LOOPBACK, NETWORKS

EVERYTHING = ('*',)


@dataclass(frozen=True)
class Difference:
    """One behaviour that differs, for the readers that see it.

    keys are the parts of the observation that may differ; cause is the function of the kernel; certain is
    False for what depends on the kernel's version or on timing. networks, if any, are those where it is seen.
    seen_by_watchers: it need not be there where the kernel takes watchers (sockaccel/kernel/watched.py).
    """

    behaviour: str
    readers: tuple[str, ...]
    keys: tuple[str, ...]
    cause: str
    advice: str
    certain: bool = True
    networks: tuple[str, ...] = ()
    seen_by_watchers: bool = False

    def allows(self, key: str) -> bool:
        return self.keys == EVERYTHING or key in self.keys


NO_URGENT_DATA = (
    'Where the kernel takes no watchers (sockaccelctl doctor), leave out programs that use urgent data, such as '
    'old telnet, rlogin and FTP servers. Elsewhere it goes by TCP, and a connection leaves the map with the first '
    'recv(MSG_OOB), which itself may get a redirected byte that was unread.'
)
NO_SPLICE_OUT = (
    'Where sockaccelctl doctor finds the issue "splice", leave out programs that splice() out of sockets: proxies '
    'in Go, docker-proxy, rootlessport, systemd-socket-proxyd, pasta, HAProxy with an option splice-*. The most '
    'common ones are left to TCP by their names (programs.conf). Elsewhere only a program that reads the same '
    'connection by recv() and by splice() can miss bytes, once: both ends get an error (on kernels before 6.5 the '
    'sender alone), an error in the journal names it, and then it is remembered. If the sender had already shut '
    'down, the program reads an end of file first.'
)
NO_TCP_COUNTERS = 'Take the traffic of accelerated connections from sockaccelctl stats and not from TCP.'
ASK_DOCTOR = (
    'Where the program relies on FIONREAD, use a kernel on which sockaccelctl doctor finds it correct, or one '
    'that takes watchers: the first wrong answer is the last that the program gets.'
)
ZEROCOPY_NOT_NEEDED = (
    'Switch zero-copy sending off in the program: a redirected message is copied once in any case.'
)
NOTHING = 'Nothing: '

DIFFERENCES = (
    Difference(
        'MSG_OOB: an urgent byte between others',
        NONBLOCKING,
        ('POLLPRI', 'recv(MSG_OOB) gives', 'before the mark', 'SIOCATMARK', 'after the mark'),
        'tcp_bpf_sendmsg',
        NO_URGENT_DATA,
        seen_by_watchers=True,
    ),
    Difference(
        'MSG_OOB: SIGURG', NONBLOCKING, ('SIGURG',), 'tcp_bpf_sendmsg', NO_URGENT_DATA, seen_by_watchers=True
    ),
    Difference(
        'MSG_TRUNC: data thrown away without a buffer',
        NONBLOCKING,
        ('recv() gives', 'what is left'),
        'sk_msg_recvmsg',
        'Let the program read into a buffer; as it is, it gets EFAULT and its data stays. Where the kernel takes '
        'watchers this can happen once: then the program is remembered, and its connections stay with TCP.',
        seen_by_watchers=True,
    ),
    Difference(
        'MSG_MORE: held back, then sent',
        NONBLOCKING,
        ('held back',),
        'tcp_bpf_sendmsg',
        NOTHING + 'the first part only arrives sooner, as a TCP sender may do at any time. Where the kernel takes '
        'watchers such messages go by TCP.',
        seen_by_watchers=True,
    ),
    Difference(
        'TCP_ZEROCOPY_RECEIVE: how much there is to receive',
        NONBLOCKING,
        ('mapped', 'to be read by recv()'),
        'tcp_zerocopy_receive',
        'Let the program use recv(), which is what it falls back to when there is nothing to map.',
    ),
    Difference(
        'splice(): from a socket into a pipe',
        NONBLOCKING,
        ('splice() gives',),
        'tcp_splice_read',
        NO_SPLICE_OUT,
        seen_by_watchers=True,
    ),
    Difference(
        'splice(): a proxy that splices from one socket to another',
        NONBLOCKING,
        ('the proxy',),
        'tcp_splice_read',
        NO_SPLICE_OUT,
        seen_by_watchers=True,
    ),
    Difference(
        'close: the reader closes with data unread',
        NONBLOCKING,
        ('the sender reads', 'its sends give'),
        'tcp_close',
        NOTHING + 'the sender reads an end of file in place of ECONNRESET, and is told by its second send().',
    ),
    Difference(
        'TCP_INFO: bytes and segments of one message',
        NONBLOCKING,
        ('bytes sent', 'bytes received', 'segments sent', 'segments received'),
        'tcp_bpf_sendmsg_redir',
        NO_TCP_COUNTERS,
    ),
    Difference(
        'send(): from an address that is not mapped',
        BOTH,
        ('it gives',),
        'tcp_bpf_sendmsg',
        NOTHING + 'only a faulty program sends what it has not mapped; it is told 0 in place of EFAULT.',
        certain=False,
    ),
    Difference(
        'io_uring: SEND_ZC from the connecting side',
        BOTH,
        EVERYTHING,
        'sock_replace_proto',
        ZEROCOPY_NOT_NEEDED,
        certain=False,
    ),
    Difference(
        f'MSG_ZEROCOPY: one completion for each send(), {IN_USE}',
        NONBLOCKING,
        ('completions',),
        'tcp_bpf_sendmsg',
        ZEROCOPY_NOT_NEEDED,
        certain=False,
    ),
    *(
        Difference(f'FIONREAD: {what}', NONBLOCKING, keys, 'tcp_bpf_ioctl', ASK_DOCTOR, certain=False)
        for what, keys in (
            ('data on a connection in use', ('4 unread', '3 unread')),
            # If the connection joins between the accept and the question.
            ('data sent before the accept', ('4 unread',)),
            ('data that TCP carried, unread, before a message of the other path', ('8 unread',)),
        )
    ),
    Difference(
        'blocked recv(): a signal after the socket was switched to blocking',
        NONBLOCKING,
        ('recv() gives',),
        'tcp_msg_wait_data',
        'Leave out programs that switch a connection in use to blocking and count on EINTR.',
        certain=False,
    ),
    Difference(
        'kTLS: set up on a connection in use, one end encrypts',
        NONBLOCKING,
        ('set-up', 'the peer gets a TLS record', 'the peer gets plain text'),
        'tls_init',
        'Nothing: programs set up kTLS at once, and where it fails encrypt by themselves.',
        certain=False,
    ),
)


def declared(case: Case, network: str = LOOPBACK) -> Difference | None:
    """The entry that covers the case in a network."""
    entries = (
        entry for entry in DIFFERENCES if entry.behaviour == case.behaviour and case.reader in entry.readers
    )
    return next((entry for entry in entries if network in (entry.networks or NETWORKS)), None)


def unknown(names: set[str]) -> Iterator[str]:
    """Entries for behaviours that do not exist (any more)."""
    return (entry.behaviour for entry in DIFFERENCES if entry.behaviour not in names)
