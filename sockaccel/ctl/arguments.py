# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of sockaccelctl: its commands, and the options of each."""

import argparse
import re
from collections.abc import Awaitable, Callable

from sockaccel import __version__
from sockaccel.core.auditing import DEFAULT_S, LONGEST_S, SHORTEST_S
from sockaccel.core.interception import WhenDown
from sockaccel.core.keys import POLICY_KEYS, PolicyKey
from sockaccel.core.target import UNIT_SUFFIXES
from sockaccel.core.words import EVENT_KINDS, PATHS
from sockaccel.ctl import audit, commands, intercept
from sockaccel.ctl.bench import bench
from sockaccel.ctl.client import Client
from sockaccel.ctl.connections import connections
from sockaccel.ctl.metrics import FORMATS, metrics
from sockaccel.ctl.scrape import scrape
from sockaccel.ctl.status import status
from sockaccel.ctl.why import why

Run = Callable[[Client, argparse.Namespace], Awaitable[int]]

_EPILOG = """\
exit status:
  0  done
  1  the daemon refused, or doctor found an issue
  2  wrong usage
  3  the daemon is not running
  4  not permitted

examples:
  sockaccelctl enable redis-server.service    accelerate its connections
  sockaccelctl status                         see whether it works
  sockaccelctl why :6379                      what is not accelerated, and why
  sockaccelctl connections --path tcp         those that go by TCP now
  sockaccelctl disable redis-server.service   undo it

See sockaccelctl(1).
"""
_UNIT_WITH_DASH = re.compile(rf'-.*({"|".join(map(re.escape, UNIT_SUFFIXES))})$')
_UNITS = {'s': 1, 'm': 60, 'h': 3600}
_TARGET = 'a unit ("postgresql.service"), a cgroup path ("/system.slice"), or "*" for all of this host'


def parser() -> argparse.ArgumentParser:
    """What main() parses; `run` of its result is the command's function."""
    parser = argparse.ArgumentParser(
        prog='sockaccelctl',
        description='Accelerate local TCP connections, and see what is accelerated and what is not.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'sockaccelctl {__version__}')
    added = parser.add_subparsers(title='commands', metavar='COMMAND', required=True, dest='command')
    add = _Commands(added)
    with_json = add.with_json
    with_json('status', status, 'show whether it works, what it is worth, and what is not accelerated and why')
    _enable(add('enable', commands.enable, "accelerate a target's connections from now on"))
    _set(add('set', commands.set_policy, 'change the policy of an enabled target'))
    _audit(with_json('audit', audit.audit, 'watch a target on plain TCP, and say what acceleration would change'))
    _disable(add('disable', commands.disable, "let a target's connections go back to TCP"))
    sentence = 'lead the connections that a target makes to a proxy, or list what is led'
    _intercept(with_json('intercept', intercept.intercept, sentence))
    _release(add('release', intercept.release, "lead a target's connections to a proxy no more"))
    _targets(with_json('targets', commands.targets, 'list the targets with their state'))
    sentence = 'list the connections that targets cover, the busiest first'
    _connections(with_json('connections', connections, sentence))
    sentence = 'say why a connection, a program or a port is accelerated or not, and what to do'
    _why(with_json('why', why, sentence))
    _top(add('top', commands.live, 'watch targets and connections, redrawn every second'))
    _trace(with_json('trace', commands.trace, 'follow what happens to connections'))
    _stats(with_json('stats', commands.stats, 'show the counters'))
    _metrics(add('metrics', metrics, 'print metrics for Prometheus and the like'))
    add('scrape', scrape, 'answer one request of HTTP on stdin with the metrics: for sockaccel-metrics.socket')
    with_json('doctor', commands.doctor, 'show what this kernel does to accelerated sockets')
    _programs(with_json('programs', commands.programs, 'list the programs that are known to be hurt, and why'))
    with_json('bench', bench, 'measure what acceleration brings on this machine; half a minute, as root')
    sentence = 'show the configuration in force, and where each value is from'
    with_json('config', commands.configuration, sentence)
    add('reload', commands.reload, 'read the configuration anew')
    return parser


class _Commands:
    """Adds commands: the name, the function that runs it, and a sentence for --help."""

    def __init__(self, parsers: 'argparse._SubParsersAction[argparse.ArgumentParser]') -> None:
        self._parsers = parsers

    def __call__(self, name: str, run: Run, sentence: str) -> argparse.ArgumentParser:
        added = self._parsers.add_parser(name, help=sentence, description=sentence)
        # What argparse takes for a negative number is no option: "-.slice", the root slice, is none either.
        added._negative_number_matcher = _UNIT_WITH_DASH
        added.set_defaults(run=run)
        return added

    def with_json(self, name: str, run: Run, sentence: str) -> argparse.ArgumentParser:
        added = self(name, run, sentence)
        added.add_argument('--json', action='store_true', help='print JSON')
        return added


def _enable(command: argparse.ArgumentParser) -> None:
    command.add_argument('target', type=_text, metavar='TARGET', help=_TARGET)
    command.add_argument('--runtime', action='store_true', help='until the daemon is stopped, not remembered')
    command.add_argument('--wait', action='store_true', help='also what does not exist yet')
    command.add_argument(
        '--probation', type=_duration, metavar='TIME',
        help='audit it first, for a time such as 60s, and enable it if that would hurt no program',
    )  # fmt: skip
    for key in POLICY_KEYS.values():
        _flag(command, key)


def _flag(command: argparse.ArgumentParser, key: PolicyKey) -> None:
    if key.says:
        command.add_argument(key.flag, dest=key.field, action='store_const', const=key.says, help=key.meaning)
        return
    metavar = key.flag.split('-')[-1].upper()
    if key.type == 'as':
        command.add_argument(
            key.flag, dest=key.field, action='append', metavar=metavar, type=_text, help=key.meaning
        )
    else:
        command.add_argument(key.flag, dest=key.field, metavar=metavar, type=_text, help=key.meaning)


def _set(command: argparse.ArgumentParser) -> None:
    command.add_argument('target', type=_text, metavar='TARGET', help=_TARGET)
    sentence = f'an empty value brings the default back; keys: {", ".join(POLICY_KEYS)}'
    command.add_argument('settings', nargs='+', type=_setting, metavar='KEY=VALUE', help=sentence)


def _audit(command: argparse.ArgumentParser) -> None:
    command.add_argument('target', type=_text, metavar='TARGET', help=_TARGET)
    command.add_argument(
        '--for', type=_duration, default=DEFAULT_S, metavar='TIME', dest='seconds',
        help=f'how long, as in 90s, 5m or 1h (default: {DEFAULT_S}s)',
    )  # fmt: skip


def _disable(command: argparse.ArgumentParser) -> None:
    command.add_argument('target', type=_text, metavar='TARGET', help=_TARGET)
    runtime = 'until the daemon is stopped; what is remembered comes back'
    command.add_argument('--runtime', action='store_true', help=runtime)


def _intercept(command: argparse.ArgumentParser) -> None:
    whose = 'whose connections; without it, list what is led'
    command.add_argument('target', nargs='?', type=_text, metavar='TARGET', help=whose)
    command.add_argument('--proxy', type=_text, metavar='PROXY', help='the unit or cgroup that takes them')
    port = 'the port at which the proxy takes them, on 127.0.0.1 and ::1 (default: 15001; 0: none, with --inbound)'
    command.add_argument('--outbound', type=_number(0, 65535), metavar='PORT', help=port)
    inbound = 'a port of the target, connections to which are led to a port of the proxy, such as 8080=15006'
    command.add_argument('--inbound', action='append', default=[], type=_text, metavar='PORT=PORT', help=inbound)
    direct = {
        '--except-port': ('PORTS', 'a port, or a range such as 8000-8999, to which connections go direct'),
        '--except': ('ADDRESSES', 'an address, or a range such as 10.0.0.0/8, to which they go direct'),
        '--except-user': ('USER', 'a user whose connections go direct: that of a proxy inside of the unit'),
    }
    for option, (name, sentence) in direct.items():
        command.add_argument(option, action='append', default=[], type=_text, metavar=name, help=sentence)
    down = 'what happens to connections while the proxy does not listen (default: refuse)'
    command.add_argument('--when-down', choices=[each.value for each in WhenDown], help=down)


def _release(command: argparse.ArgumentParser) -> None:
    command.add_argument('target', type=_text, metavar='TARGET', help='what "intercept" was given')


def _targets(command: argparse.ArgumentParser) -> None:
    command.add_argument('--names', action='store_true', help='print nothing but the names, for scripts')


def _connections(command: argparse.ArgumentParser) -> None:
    command.add_argument('--target', type=_text, help='only those of one target')
    command.add_argument('--path', choices=PATHS, help='only those whose last messages went this way')
    command.add_argument('--port', type=_number(1, 65535), help='only those with this port at one end')
    command.add_argument('--address', type=_text, help='only those with this IP address at one end')
    program = 'only those of a program, by the name that the kernel knows'
    command.add_argument('--program', type=_text, help=program)
    command.add_argument('--pid', type=_number(1, 2**32 - 1), help='only those of a process')
    command.add_argument('--reason', type=_text, help='only those that go by TCP for a reason')
    limit = 'no more than N, 0 for all, in no order (default: 50)'
    command.add_argument('--limit', type=_number(0, 10**9), default=50, metavar='N', help=limit)


def _why(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        'subject', type=_text, metavar='PID|:PORT|ADDRESS:PORT|PROGRAM|TARGET', help='what it is about'
    )


def _top(command: argparse.ArgumentParser) -> None:
    command.add_argument('--interval', type=_seconds, default=1.0, metavar='S', help='seconds (default: 1)')
    count = 'redraw N times, then end (default without a terminal: 1)'
    command.add_argument('--count', type=_number(1, 10**9), metavar='N', help=count)


def _trace(command: argparse.ArgumentParser) -> None:
    command.add_argument('--target', type=_text, help='only those of one target')
    command.add_argument('--kind', choices=tuple(EVENT_KINDS.values()), help='only one kind of event')
    command.add_argument('--port', type=_number(1, 65535), help='only connections with this port at one end')
    command.add_argument('--program', type=_text, help='only those of a program')
    command.add_argument('--reason', type=_text, help='only events with a reason')


def _stats(command: argparse.ArgumentParser) -> None:
    target = 'only those of one enabled target, since it was enabled'
    command.add_argument('--target', type=_text, help=target)
    command.add_argument('--all', action='store_true', help='also those that stand at zero')
    command.add_argument('--since-reset', action='store_true', help='since the last --reset')
    reset = 'show the counts since the last reset, then start them at zero'
    command.add_argument('--reset', action='store_true', help=reset)


def _setting(text: str) -> tuple[str, str]:
    key, separator, value = _text(text).partition('=')
    if not separator:
        raise argparse.ArgumentTypeError(f'"{text}" is not KEY=VALUE')
    return key, value


def _programs(command: argparse.ArgumentParser) -> None:
    forget = 'forget what was seen of the executable at PATH'
    command.add_argument('--forget', type=_text, metavar='PATH', help=forget)


def _metrics(command: argparse.ArgumentParser) -> None:
    command.add_argument('--format', choices=FORMATS, default=FORMATS[0], help='default: openmetrics')
    output = 'replace a file, for the textfile collector of node_exporter'
    command.add_argument('--output', type=_text, metavar='FILE', help=output)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f'"{text}" is not a number of seconds from 0.1 to 3600')
    return value


def _duration(text: str) -> int:
    """Seconds, from a number with a unit."""
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, 's')
    seconds = int(number) * _UNITS[unit] if number.isascii() and number.isdigit() and len(number) < 10 else 0
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise argparse.ArgumentTypeError(f'"{text}" is not a time from {SHORTEST_S}s to {LONGEST_S // 3600}h')
    return seconds


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 20 or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f'"{text}" is not a number from {lowest} to {highest}')
        return int(text)

    return number


def _text(text: str) -> str:
    """D-Bus carries nothing but UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f'{text!a} is not UTF-8 text') from None
    return text
