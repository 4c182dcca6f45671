# SPDX-License-Identifier: GPL-2.0-or-later
"""An audit's report in sentences."""

from sockaccel.core.advice import ADVICE
from sockaccel.core.audit import Exchange, Report, Terms
from sockaccel.core.watch import Traffic

# From docs/benchmarks: below this TCP puts the messages of a stream together, and is as fast.
_STREAM_GAINS_FROM = 16 * 1024


def summary(report: Report) -> list[str]:
    """What was seen as a whole, and what follows from that."""
    if not report.connections:
        return [
            f'Nothing of "{report.target}" had a TCP connection in {_duration(report.seconds)}: audit it while '
            'its programs work.'
        ]
    total = report.local_bytes + report.remote_bytes
    said = [
        f'"{report.target}" had {_count(report.connections, "connection")} in {_duration(report.seconds)}, which '
        f'carried {size(total)}, of which {_share(report.local_bytes, total)} stayed on this host.'
    ]
    if report.left_out:
        said.append(
            f'{report.left_out} more connections were not looked at, which is beyond the limit of an audit.'
        )
    if report.harmed:
        said.append(f'Leave it to TCP: {report.harmed[0].harm}.')
    elif report.gains:
        said.append(
            f'Acceleration would carry {_share(sum(each.bytes for each in report.gains), total)} of these bytes.'
        )
    else:
        said.append('Enabling it would accelerate nothing of that.')
    return said


def about(exchange: Exchange, terms: Terms) -> str:
    """What acceleration would change for connections that are alike, in a sentence."""
    if exchange.harm:
        return f'Would be hurt: {exchange.harm}.'
    if not exchange.reason:
        return _gain(exchange)
    (sentence,) = [each.sentence for each in terms.counters if each.name == exchange.reason]
    who = (
        f' ({", ".join(exchange.who)})'
        if exchange.who and exchange.reason not in ('not_local', 'excluded')
        else ''
    )
    return f'Stays with TCP: {sentence}{who}. {ADVICE[exchange.reason]}'


def _gain(exchange: Exchange) -> str:
    if exchange.traffic is Traffic.IDLE:
        return 'Would be accelerated; it carried nothing meanwhile.'
    if exchange.traffic is Traffic.REQUESTS:
        return 'Would be accelerated: each request and each response arrives sooner.'
    if max(exchange.to_server.size, exchange.to_client.size) >= _STREAM_GAINS_FROM:
        return 'Would be accelerated: a stream of large messages, which takes less CPU time.'
    return 'Would be accelerated, and gains little: TCP puts the small messages of a stream together.'


def manner(exchange: Exchange) -> str:
    """How the ends talk, in words."""
    to_server, to_client = exchange.to_server, exchange.to_client
    if exchange.traffic is Traffic.IDLE:
        return 'idle'
    if exchange.traffic is Traffic.REQUESTS:
        return f'request/response, about {size(to_server.size)} and {size(to_client.size)}'
    more, where = max(
        ((to_server, 'server'), (to_client, 'client')), key=lambda each: (each[0].bytes, each[0].segments)
    )
    return f'stream to the {where}, about {size(more.size)} each'


def unseen(terms: Terms) -> list[str]:
    """What an audit of plain TCP cannot see on this kernel, and what follows from that."""
    issues = {each.name for each in terms.findings if each.severity == 'issue'}
    said = []
    if 'splice' in issues:
        said.append(
            'Whether a program reads by splice() cannot be seen on this kernel: make sure that none of these '
            'programs does; see "sockaccelctl doctor" for those that are known to.'
        )
    else:
        said.append(
            'Programs that read by splice() were watched for. One that does so later is left to TCP then, and '
            'loses nothing.'
        )
    if 'fionread' in issues:
        said.append(
            'Whether a program asks FIONREAD cannot be seen, and this kernel answers it wrongly: make sure that '
            'none of these programs does; see "sockaccelctl doctor" for those that are known to.'
        )
    said.append(
        'Connections that began and ended between two looks are not in this report; short ones gain little.'
    )
    return said


def size(count: float) -> str:
    for unit in ('bytes', 'KB', 'MB', 'GB'):
        if count < 1000:
            return f'{count:.0f} {unit}' if unit == 'bytes' else f'{count:.1f} {unit}'
        count /= 1000
    return f'{count:.1f} TB'


def _share(part: int, whole: int) -> str:
    return f'{100 * part / whole:.0f} %' if whole else 'nothing'


def _count(number: int, what: str) -> str:
    return f'{number} {what}{"" if number == 1 else "s"}'


def _duration(seconds: float) -> str:
    return _count(round(seconds), 'second')
