# SPDX-License-Identifier: GPL-2.0-or-later
"""How the ends that a walk lists are packed: `struct event` after `struct event`."""

import re
import socket
import struct
from collections.abc import Callable, Iterator

from sockaccel.core.ends import Layout
from sockaccel.kernel.abi import EVENT, FLOW, PAIR_KEY, EventRecord, FlowRecord, PairKeyRecord

# asm-generic/socket.h
_SO_NETNS_COOKIE = 71


def own_netns() -> int:
    """The cookie of the network namespace in which this process is, as each `struct flow` has it. OSError."""
    with socket.socket(socket.AF_UNIX) as sock:
        return int(struct.unpack('=Q', sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])


class Ends:
    """Implements sockaccel.core.protocols.Ends. parts: sockaccel.kernel.live.Kernel.list_ends."""

    def __init__(self, parts: Callable[[], Iterator[bytes]]) -> None:
        self.parts = parts
        flow, key, *others = zip(EventRecord._fields, _codes(EVENT), strict=True)
        assert (flow, key) == (('flow', f'{FLOW.size}s'), ('key', f'{PAIR_KEY.size}s'))
        self.layout = Layout(
            [
                *zip(FlowRecord._fields, _codes(FLOW), strict=True),
                *zip(PairKeyRecord._fields, _codes(PAIR_KEY), strict=True),
                *others,
            ]
        )


def _codes(packed: struct.Struct) -> list[str]:
    """That of each field: '=2I16s' has I, I and 16s."""
    found: list[str] = []
    for count, letter in re.findall(r'(\d*)([A-Za-z])', packed.format):
        found += [count + letter] if letter == 's' else [letter] * int(count or 1)
    return found
