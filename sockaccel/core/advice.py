# SPDX-License-Identifier: GPL-2.0-or-later
"""What an administrator can do about each reason for which something is not accelerated.

By the name of the counter in bpf/abi/counters.h, whose sentence says what the reason is. A total has none.
"""

_NOTHING = 'Nothing to do: '
_OF_A_MOMENT = _NOTHING + 'this holds for a moment, and the next messages are redirected.'
_OPTION = 'To accelerate it, let the program leave this option out.'
_BLOCKING = (
    'Let both programs read in non-blocking mode. Or set BlockingReaders=yes, if they can take EAGAIN from a '
    'blocking recv() upon a signal.'
)
_UNIT = 'Take IPAccounting=, IPAddressAllow=, IPAddressDeny= and the like out of the unit and the slices above it.'
_TLS = 'To accelerate it, switch kernel TLS off in the program: what the kernel encrypts must pass by TCP.'
_ZEROCOPY = 'Switch zero-copy sending off in the program: a redirected message is copied only once anyway.'
_IPSEC = 'To accelerate it, take the policies away from local connections: IPsec has to see the packets.'
_MARK = 'To accelerate it, let the program set no mark: rules for packets may depend on it.'
_DEVICE = 'To accelerate it, let the program bind to an address instead of a device.'
_SIGNED = 'To accelerate it, switch the signing of segments off for connections within this host.'
_RATE = 'To accelerate it, set no rate and no delay: they are for packets, and a redirect sends none.'
_LIMIT = 'Raise MaximumConnections= and restart sockaccel, or name fewer or narrower targets.'

ADVICE = {
    # Why a connection is not accelerated.
    'not_local': _NOTHING
    + 'only connections within this host can be accelerated. If the other end is in a network '
    'namespace of this host, set OtherNamespaces=yes for a target that has both ends.',
    'other_namespace': 'Set OtherNamespaces=yes for the target of both ends, if nothing between them has to see '
    'their packets.',
    'foreign_owner': _NOTHING + 'ends that different users could forge never meet.',
    'client_unseen': 'Let the client connect again. If addresses are translated on the way, sockaccel looks for it'
    ' when the connection is old enough to join; one that lives shorter needs its client in the target.',
    'missed': 'Restart the program, or let it connect again.',
    'excluded': 'Change the Include and Exclude lists of the configuration, if it should be accelerated.',
    'kernel_socket': _NOTHING + 'the kernel reads from it in ways that a redirect cannot serve.',
    'mptcp': 'To accelerate it, let the program use plain TCP within this host.',
    'self_connect': _NOTHING + 'a socket that is connected to itself gains nothing.',
    'repair': _NOTHING + 'the next connections of the program can join.',
    'fast_open': 'Let the server belong to the target too, or switch TCP Fast Open off in the client.',
    'foreign_sockmap': 'Let only one program on this host redirect these connections, sockaccel or the other one.',
    'twice_claimed': 'Find out who forges connections: two ends that know the same numbers do not come by chance.',
    'map_full': _LIMIT,
    'not_kept': _LIMIT,
    'unsupported': _NOTHING + 'this kernel cannot redirect such a socket.',
    'short': 'Let the program keep its connections open. JoinDelayMs=0 lets them join at once.',
    'blocking_end': _BLOCKING,
    'unaccepted': 'Find out why the server accepts no connections: it may hang, or have no capacity left.',
    'ulp_end': _TLS,
    'zerocopy_end': _ZEROCOPY,
    'option_end': _OPTION,
    'filter_end': _OPTION,
    'cgroup_filter_end': _UNIT,
    'ipsec_end': _IPSEC,
    'fwmark_end': _MARK,
    'device_end': _DEVICE,
    'hop_limit_end': _OPTION,
    'ip_options_end': _OPTION,
    'signed_end': _SIGNED,
    'rate_end': _RATE,
    'splice_end': _NOTHING + 'programs that read by splice() are faster so.',
    'splice_unread': 'Restart the program. Leave it out from now on: disable its target or exclude its port.',
    'known_program': 'See "sockaccelctl programs": take it out of programs.conf, or forget it, if it is wrong.',
    'fionread_end': _NOTHING + 'this kernel would answer the program wrongly.',
    'read_flags_end': _NOTHING + 'what the program asks of recv() only TCP can do.',
    'lonely': _NOTHING + 'the reason of the other end is the one that counts.',
    'paused': _NOTHING + 'it comes back by itself when a redirect is worth it.',
    'drained': 'Enable the target again, if it should be accelerated.',
    # Why a message of an accelerated connection went by TCP.
    'leaving': _NOTHING + 'the reason of the connection says why it leaves.',
    'switched_off': 'Enable the target again, if it should be accelerated.',
    'no_peer': _OF_A_MOMENT,
    'peer_gone': _NOTHING + 'the connection ends.',
    'shut_down': _NOTHING + 'the connection ends.',
    'order': _OF_A_MOMENT,
    'unproven': _NOTHING + 'messages are redirected once the reader has shown that it reads by recv().',
    'overtaking': 'Restart the program. Leave it out from now on: disable its target or exclude its port.',
    'backlog': _NOTHING + 'the reader is slower than the sender, and a redirect would not change that.',
    'reader_busy': _OF_A_MOMENT,
    'memory': 'Give the host, or the unit of the reader (MemoryHigh=, MemoryMax=), more memory.',
    'not_accepted': _OF_A_MOMENT,
    'blocking': _BLOCKING,
    'low_water': _OPTION,
    'peek_offset': _OPTION,
    'zerocopy': _ZEROCOPY,
    'ulp': _TLS,
    'filter': _OPTION,
    'cgroup_filter': _UNIT,
    'ipsec': _IPSEC,
    'fwmark': _MARK,
    'device': _DEVICE,
    'hop_limit': _OPTION,
    'ip_options': _OPTION,
    'signed': _SIGNED,
    'rate': _RATE,
    'timestamps': _OPTION,
    'extras': _OPTION,
    'repair_mode': _NOTHING + 'messages are redirected again when the checkpoint is done.',
    'send_flags': _NOTHING + 'what the program asks of send() only TCP can do.',
    'cork': _NOTHING + 'TCP collects the parts, which the program asked for by TCP_CORK.',
    'heartbeat': _OF_A_MOMENT,
    'coalesce': _NOTHING + 'TCP carries them faster together. A program that wants each at once sets TCP_NODELAY.',
    'refused': _NOTHING + 'the kernel has no room for it at this moment.',
}
