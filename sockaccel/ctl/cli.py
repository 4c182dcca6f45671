# SPDX-License-Identifier: GPL-2.0-or-later
"""sockaccelctl: runs a command, and turns what goes wrong into a sentence and an exit status."""

import sockaccel.unneeded  # noqa: F401

# isort: split
import argparse
import asyncio
import sys

from sockaccel.core import words
from sockaccel.ctl import commands, streams
from sockaccel.ctl.arguments import parser
from sockaccel.ctl.bench import BenchFailed
from sockaccel.ctl.client import Client, NotRunning, Refused
from sockaccel.ctl.exits import EX_NOT_PERMITTED, EX_NOT_RUNNING, EX_OK, EX_REFUSED, EX_USAGE
from sockaccel.ctl.metrics import NotWritten
from sockaccel.dbus.message import DBUS
from sockaccel.errors import InvalidArgument, NotPermitted, UnknownTarget


async def _run(options: argparse.Namespace) -> int:
    async with Client() as client:
        return int(await options.run(client, options))


def _fail(message: str, hint: str, code: int) -> int:
    print(f'sockaccelctl: {message}', file=sys.stderr)
    if hint:
        print(f'sockaccelctl: {hint}', file=sys.stderr)
    return code


def _refused(error: Refused, command: str) -> int:
    # The second is what the policy of the bus answers with.
    if words.is_error(error.name, NotPermitted) or error.name == f'{DBUS}.Error.AccessDenied':
        return _fail(str(error), f'try: sudo sockaccelctl {command} …', EX_NOT_PERMITTED)
    hint = ''
    if words.is_error(error.name, UnknownTarget):
        hint = 'see what is enabled: sockaccelctl targets'
    elif error.name == f'{DBUS}.Error.UnknownMethod':
        hint = 'the daemon is older than this program: systemctl restart sockaccel'
    return _fail(str(error), hint, EX_REFUSED)


def _status(options: argparse.Namespace) -> int:
    try:
        return asyncio.run(_run(options))
    except NotRunning as exc:
        if options.run is commands.configuration:
            return commands.configuration_of_files(options)
        return _fail(str(exc), exc.hint, EX_NOT_RUNNING)
    except (BenchFailed, NotWritten) as exc:
        return _fail(str(exc), '', EX_REFUSED)
    except NotPermitted as exc:
        return _fail(str(exc), f'try: sudo sockaccelctl {options.command} …', EX_NOT_PERMITTED)
    except InvalidArgument as exc:
        return _fail(str(exc), '', EX_REFUSED)
    except Refused as exc:
        return _refused(exc, options.command)
    except KeyboardInterrupt:
        return EX_OK


def main(arguments: list[str] | None = None) -> int:
    streams.prepare()
    try:
        try:
            status = _status(parser().parse_args(arguments))
        except SystemExit as exc:
            # argparse: --help and wrong usage.
            status = exc.code if isinstance(exc.code, int) else EX_USAGE
        # What is still buffered would find the pipe closed, or the disk full, where nobody catches it any more.
        sys.stdout.flush()
    except BrokenPipeError:
        # `sockaccelctl trace | head`: the reader has seen enough.
        streams.abandon()
        return EX_OK
    except OSError as exc:
        streams.abandon()
        return _fail(streams.what_failed(exc), '', EX_REFUSED)
    return status


if __name__ == '__main__':
    sys.exit(main())
