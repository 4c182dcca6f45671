# SPDX-License-Identifier: GPL-2.0-or-later
"""From what the BPF programs write to the core's types."""

import pytest

from sockaccel.core.connection import EventKind, Flow
from sockaccel.kernel.abi import EVENT, FLOW
from sockaccel.kernel.records import event_from, flow_of


@pytest.mark.parametrize(
    ('local', 'expected'),
    [
        (bytes(10) + b'\xff\xff\x7f\0\0\1', '127.0.0.1'),
        (bytes(15) + b'\1', '::1'),
        (bytes(16), '::'),
    ],
)
def test_addresses(local: bytes, expected: str) -> None:
    flow = flow_of(FLOW.pack(7, local, local, 80, 5000, 0))
    assert flow == Flow(7, expected, expected, 80, 5000)


def test_a_flow_as_text() -> None:
    assert str(Flow(0, '127.0.0.1', '::1', 1, 2)) == '127.0.0.1:1 -> [::1]:2'


def test_an_event() -> None:
    flow = FLOW.pack(1, bytes(16), bytes(16), 1, 2, 0)
    data = EVENT.pack(
        flow, bytes(8), *range(10, 18), EventKind.CLOSED, 3, 4, 5, 1, 6, 0, 0, 0, 0, b'caf\xc3\xa9\xff\0junk'
    )
    event = event_from(data)
    assert (event.time_ns, event.tcp_messages) == (10, 17)
    assert (event.kind, event.reason, event.slot, event.active, event.pid) == (EventKind.CLOSED, 3, 4, True, 6)
    assert event.program == 'caf\xe9\ufffd'
