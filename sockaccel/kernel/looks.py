# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks at the open sockets of a cgroup, for audits (bpf/audit.c)."""

import struct
from collections.abc import Iterator, Mapping

from sockaccel.core.opensocket import OpenSocket
from sockaccel.core.text import printable
from sockaccel.kernel import libbpf
from sockaccel.kernel.abi import (
    AUDIT,
    FLOW,
    OPEN_SOCKET,
    PAIR_KEY,
    FlowRecord,
    KnowledgeFlag,
    Look,
    OpenFlag,
    OpenSocketRecord,
    PairKeyRecord,
)

_U32 = struct.Struct('=I')


def look(fds: Mapping[str, int], cgroup: int) -> Iterator[OpenSocket]:
    """Every established socket of a cgroup, every listener of this host, then the other ends of the former.

    Some come twice, with the same cookie. fds: of programs and maps by name. cgroup: an id. Nobody may use the
    walk over open files meanwhile. Raises OSError.
    """
    try:
        for walk in (Look.ENDS, Look.PEERS):
            prepare(fds, walk, cgroup)
            yield from _walk(fds)
    finally:
        prepare(fds, Look.SEARCH)


def prepare(fds: Mapping[str, int], walk: Look, cgroup: int = 0) -> None:
    """Say what the next walk over open files is for. OSError."""
    # Those that an audit has noted are for its own second walk.
    if walk is not Look.PEERS:
        libbpf.map_clear(fds['sa_audited'], PAIR_KEY.size)
    libbpf.map_update(fds['sa_audit'], _U32.pack(0), AUDIT.pack(cgroup, walk, 0))


def _walk(fds: Mapping[str, int]) -> Iterator[OpenSocket]:
    for printed in libbpf.iterate(fds['bpf_iter__task_file']):
        for values in OPEN_SOCKET.iter_unpack(printed):
            record = OpenSocketRecord._make(values)
            yield _seen(record, _calls(fds, record.pid))


def want_calls(fds: Mapping[str, int], *, wanted: bool) -> None:
    """Say whether watchers note what processes do; what they noted before is forgotten. OSError."""
    libbpf.map_update(fds['sa_auditing'], _U32.pack(0), _U32.pack(wanted))
    libbpf.map_clear(fds['sa_calls'], _U32.size)


def _calls(fds: Mapping[str, int], pid: int) -> KnowledgeFlag:
    noted = libbpf.map_lookup(fds['sa_calls'], _U32.pack(pid), _U32.size)
    return KnowledgeFlag(_U32.unpack(noted)[0] if noted else 0)


def _seen(record: OpenSocketRecord, calls: KnowledgeFlag) -> OpenSocket:
    flow = FlowRecord._make(FLOW.unpack(record.flow))
    flags = OpenFlag(record.flags)
    key = PairKeyRecord._make(PAIR_KEY.unpack(record.key))
    ends = (flow.local, flow.local_port), (flow.remote, flow.remote_port)
    return OpenSocket(
        key.sent, key.received, flow.netns, flow.local_port, flow.remote_port, record.cookie, record.sent,
        record.received, record.sent_segments, record.received_segments, record.pid,
        printable(record.program.split(b'\0', 1)[0].decode(errors='replace')), record.user, flow.remote,
        record.reason,
        listens=OpenFlag.LISTENS in flags,
        alone=ends[0] == ends[1],
        local=OpenFlag.LOCAL in flags,
        blocks=OpenFlag.BLOCKS in flags,
        joined=OpenFlag.JOINED in flags,
        urgent=OpenFlag.URGENT in flags,
        splices=KnowledgeFlag.SPLICES in calls,
        asks_fionread=KnowledgeFlag.ASKS_FIONREAD in calls,
    )  # fmt: skip
