# SPDX-License-Identifier: GPL-2.0-or-later
"""What an audit has to say: who talks to whom, how, and what acceleration would change."""

import shlex
from dataclasses import dataclass, field

from sockaccel.core import rules
from sockaccel.core.connection import Counter
from sockaccel.core.finding import Finding
from sockaccel.core.policy import Policy
from sockaccel.core.watch import Direction, Observed, Traffic, Watch, traffic

# Of a report; those that carried most.
MAXIMUM_EXCHANGES = 64


@dataclass(frozen=True)
class Terms:
    """What a report depends on beside what was seen. policy: what the target would have."""

    counters: list[Counter]
    findings: list[Finding]
    policy: Policy

    def issues(self) -> list[Finding]:
        """Those that somebody has to accept."""
        accepted = self.policy.accepted_issues
        return [each for each in self.findings if each.severity == 'issue' and each.name not in accepted]


@dataclass
class Exchange:
    """Connections alike: of the same programs, to the same port, with the same prospect.

    client, server: names of programs, '' where the end is on another host. reason: the name of the counter that
    says why they would stay with TCP, '' if they would be accelerated. who: the programs that are the reason.
    harm: what acceleration would do to them, '' for nothing.
    """

    client: str
    server: str
    port: int
    local: bool
    reason: str
    who: tuple[str, ...] = ()
    harm: str = ''
    connections: int = 0
    to_server: Direction = field(default_factory=Direction)
    to_client: Direction = field(default_factory=Direction)

    @property
    def bytes(self) -> int:
        return self.to_server.bytes + self.to_client.bytes

    @property
    def traffic(self) -> Traffic:
        return traffic(self.to_server, self.to_client)


@dataclass(frozen=True)
class Report:
    """seconds: how long it watched. more: how many exchanges it has left out, and left_out how many connections.

    local_bytes, remote_bytes: what all connections carried meanwhile. command: what enables the target, '' where
    that would accelerate nothing that was seen, or hurt somebody.
    """

    target: str
    seconds: float
    connections: int
    local_bytes: int
    remote_bytes: int
    exchanges: tuple[Exchange, ...]
    more: int
    left_out: int
    command: str

    @property
    def gains(self) -> list[Exchange]:
        """What would be accelerated."""
        return [each for each in self.exchanges if each.local and not each.reason]

    @property
    def harmed(self) -> list[Exchange]:
        """What would be accelerated, and should not be."""
        return [each for each in self.gains if each.harm]


def report(target: str, seconds: float, watch: Watch, terms: Terms) -> Report:
    """Put together what was seen until now."""
    found: dict[tuple[object, ...], Exchange] = {}
    for connection in watch.connections:
        one = _exchange(connection, terms)
        key = (one.client, one.server, one.port, one.local, one.reason, one.who, one.harm)
        exchange = found.setdefault(key, one)
        exchange.connections += 1
        for mine, more in zip((exchange.to_server, exchange.to_client), connection.during(), strict=True):
            mine.add(more)
    exchanges = sorted(found.values(), key=lambda each: (-each.bytes, each.client, each.server, each.port))
    local = sum(each.bytes for each in exchanges if each.local)
    gains = [each for each in exchanges if each.local and not each.reason]
    command = _command(target, terms) if gains and not any(each.harm for each in gains) else ''
    return Report(
        target, seconds, len(watch.connections), local, sum(each.bytes for each in exchanges) - local,
        tuple(exchanges[:MAXIMUM_EXCHANGES]), max(0, len(exchanges) - MAXIMUM_EXCHANGES), watch.left_out, command,
    )  # fmt: skip


def _command(target: str, terms: Terms) -> str:
    accept = ''.join(f'--accept {each.name} ' for each in terms.issues())
    return f'sockaccelctl enable {accept}{shlex.quote(target)}'


def _exchange(connection: Observed, terms: Terms) -> Exchange:
    client, server = connection.client, connection.server
    port = server.port if server else client.peer_port if client else 0
    reason, who = _reason(connection, terms)
    harm = '' if reason else _harm(connection)
    return Exchange(
        client.program if client else '', server.program if server else '', port, connection.local, reason,
        tuple(dict.fromkeys(who)), harm,
    )  # fmt: skip


def _reason(connection: Observed, terms: Terms) -> tuple[str, list[str]]:
    """Why a connection would stay with TCP, and because of which programs.

    bpf/membership.c and bpf/judge.c decide the same of those that are covered.
    """
    client, ends = connection.client, connection.ends
    everybody = [end.program for end in ends]
    if not connection.local:
        return 'not_local', everybody
    if all(end.joined for end in ends):
        return '', []
    if client and rules.excluded(terms.policy.rules, client.peer_address, client.peer_port, client.user):
        return 'excluded', everybody
    if client and client.alone:
        return 'self_connect', everybody
    if len({end.netns for end in ends}) > 1 and not terms.policy.other_namespaces:
        return 'other_namespace', everybody
    for end in ends:
        if end.reason:
            reason = terms.counters[end.reason].name
            return reason, [other.program for other in ends if other.reason == end.reason]
    if len(ends) < 2:
        return 'unaccepted', everybody
    if splicing := [end.program for end in ends if end.splices]:
        return 'splice_end', splicing
    if asking := [end.program for end in ends if end.asks_fionread]:
        return 'fionread_end', asking
    blocking = [end.program for end in ends if end.blocks]
    if blocking and not terms.policy.blocking_readers:
        return 'blocking_end', blocking
    return '', []


def _harm(connection: Observed) -> str:
    """What a redirect would do to a connection that would be accelerated; '' for nothing that anybody notices."""
    urgent = [end.program for end in connection.ends if end.urgent]
    if urgent:
        return f'"{urgent[0]}" gets urgent data (MSG_OOB), which a redirect makes ordinary bytes'
    blocking = [end.program for end in connection.ends if end.blocks]
    if blocking:
        return f'"{blocking[0]}" does blocking reads, which may end early or with EAGAIN (BlockingReaders=yes)'
    return ''
