# SPDX-License-Identifier: GPL-2.0-or-later
"""Where sockaccelctl prints to: a terminal of any encoding, a closed descriptor, a full disk."""

import codecs
import contextlib
import errno
import os
import sys

_HANDLER = 'sockaccelctl'
# What the texts of sockaccelctl have beyond ASCII.
_IN_ASCII = {'…': '...', '×': 'x'}
# What write(2) says where there is no room, or nobody may write.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def prepare() -> None:
    """Let everything be printed, whatever the locale is, and let a closed stream be one that nobody reads.

    The descriptor of a closed stream is opened: otherwise the socket of the bus would get its number.
    """
    codecs.register_error(_HANDLER, _instead)
    for name in ('stdin', 'stdout', 'stderr'):
        stream = getattr(sys, name)
        if stream is None:
            mode = 'r' if name == 'stdin' else 'w'
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        elif name != 'stdin' and hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors=_HANDLER)


def abandon() -> None:
    """Print nothing more: what is still buffered would fail where nobody catches it any more."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def what_failed(error: OSError) -> str:
    """A sentence about an error that reached nobody who knows what it was about."""
    reason = error.strerror or str(error)
    if error.errno in _NO_ROOM and not error.filename:
        return f'cannot write all that there is to say ({reason})'
    return f'the system refused a call ({error})'


def _instead(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and (text := error.object[error.start]) in _IN_ASCII:
        return _IN_ASCII[text], error.start + 1
    return codecs.backslashreplace_errors(error)
