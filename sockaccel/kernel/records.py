# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the core's types of what the BPF programs write (sockaccel.kernel.abi)."""

from sockaccel.core.connection import ConnectionState, Event, EventKind, Flow, unpack_address
from sockaccel.core.text import printable
from sockaccel.kernel.abi import EVENT, FLOW, EventRecord, FlowRecord


def flow_of(data: bytes) -> Flow:
    """From a `struct flow`. Raises struct.error when data has another size."""
    flow = FlowRecord._make(FLOW.unpack(data))
    return Flow(
        flow.netns, unpack_address(flow.local), unpack_address(flow.remote), flow.local_port, flow.remote_port
    )


def event_from(data: bytes) -> Event:
    """From a `struct event`. Raises struct.error when data has another size."""
    return event_of(EventRecord._make(EVENT.unpack(data)))


def event_of(record: EventRecord) -> Event:
    """From a `struct event` that was unpacked before."""
    values = record._asdict()
    # What it is for, the listing has done (sockaccel.core.listing.pairs).
    del values['key'], values['flags'], values['pad']
    values |= {
        'flow': flow_of(record.flow),
        'kind': EventKind(record.kind),
        'active': bool(record.active),
        'state': ConnectionState(record.state),
        'program': printable(record.program.split(b'\0', 1)[0].decode(errors='replace')),
    }
    return Event(**values)
