# SPDX-License-Identifier: GPL-2.0-or-later
"""structlog writes to journald, with a field for each value, if stderr is the journal; to stderr otherwise."""

import fcntl
import logging
import os
import socket
import struct
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

from sockaccel.core.target import quote
from sockaccel.errors import InvalidArgument

IDENTIFIER = 'sockaccel'
_SOCKET = '/run/systemd/journal/socket'
# syslog(3)
_PRIORITY = {'debug': 7, 'info': 6, 'warning': 4, 'error': 3, 'exception': 3, 'critical': 2}
# org.freedesktop.LogControl1(5) has the levels of syslog. sockaccel logs nothing above "err" or at "notice".
_LEVELS = {
    'debug': logging.DEBUG,
    'info': logging.INFO,
    'notice': logging.INFO + 5,
    'warning': logging.WARNING,
    'err': logging.ERROR,
    'crit': logging.CRITICAL,
    'alert': logging.CRITICAL + 5,
    'emerg': logging.CRITICAL + 10,
}
# Other names that LogLevel= takes.
_ALIASES = {'error': 'err'}

_level, _target = 'info', 'console'


def configure(level: str = 'info') -> None:
    """Set up logging for the process. level: debug, info, warning or error."""
    logging.basicConfig(format='%(message)s', stream=sys.stderr, force=True)
    set_level(level)
    set_target('auto')


def level() -> str:
    """The level in force, by its name in syslog."""
    return _level


def set_level(name: str) -> None:
    """Let lines of a level and above through. Raises InvalidArgument."""
    global _level
    name = _ALIASES.get(name, name)
    if name not in _LEVELS:
        raise InvalidArgument(f'log level {quote(name)} is none of {", ".join(_LEVELS)}')
    _level = name
    logging.getLogger().setLevel(_LEVELS[name])


def target() -> str:
    """Where lines go: journal or console (stderr)."""
    return _target


def set_target(name: str) -> None:
    """name: journal, console, or auto, which is the journal where stderr is. Raises InvalidArgument."""
    global _target
    if name not in ('auto', 'journal', 'console'):
        raise InvalidArgument(f'log target {quote(name)} is none of auto, journal, console')
    if name == 'auto':
        name = 'journal' if stderr_is_journal() else 'console'
    _target = name
    to_journal = name == 'journal'
    before: list[Any] = [] if to_journal else [structlog.processors.TimeStamper('%H:%M:%S'), _without_id]
    last: Any = _journal() if to_journal else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            *before,
            structlog.processors.format_exc_info,
            last,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # A cached logger would keep the level that it was made with.
        cache_logger_on_first_use=False,
    )


def stderr_is_journal() -> bool:
    """systemd.exec(5): $JOURNAL_STREAM is device:inode of the stream that is connected to the journal."""
    stream = os.environ.get('JOURNAL_STREAM', '')
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return stream == f'{status.st_dev}:{status.st_ino}'


def encode(fields: dict[str, str]) -> bytes:
    """The native protocol (systemd's docs/JOURNAL_NATIVE_PROTOCOL.md)."""
    parts = []
    for key, value in fields.items():
        data = value.encode(errors='replace')
        if b'\n' in data:
            parts.append(key.encode() + b'\n' + struct.pack('<Q', len(data)) + data + b'\n')
        else:
            parts.append(key.encode() + b'=' + data + b'\n')
    return b''.join(parts)


class JournalRenderer:
    """The last processor: sends the line to journald, or lets it go to stderr where there is no journald.

    While journald does not keep up, lines are lost and the daemon does not wait. The next line says how many.
    """

    def __init__(self, path: str = _SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._lost = 0

    def __call__(self, _logger: WrappedLogger, method: str, event_dict: EventDict) -> str:
        message = str(event_dict.pop('event'))
        event_dict.pop('level', None)
        priority = _PRIORITY.get(method, 6)
        if 'exception' in event_dict:
            message = f'{message}\n{event_dict.pop("exception")}'
        if self._lost:
            message += f' ({self._lost} lines before were lost, because journald did not keep up)'
        fields = {'MESSAGE': message, 'PRIORITY': str(priority), 'SYSLOG_IDENTIFIER': IDENTIFIER}
        if message_id := event_dict.pop('message_id', None):
            fields['MESSAGE_ID'] = str(message_id)
        for key, value in event_dict.items():
            if value is not None and value != '':
                fields[f'SOCKACCEL_{key.upper()}'] = str(value)
        try:
            self._send(encode(fields))
        except BlockingIOError:
            self._lost += 1
        except OSError:
            return f'<{priority}>{message}'
        else:
            self._lost = 0
        raise structlog.DropEvent

    def _send(self, data: bytes) -> None:
        self._socket.connect(self._path)
        try:
            self._socket.send(data)
        except OSError as exc:
            if isinstance(exc, BlockingIOError):
                raise
            # The protocol's way for what is too long for a datagram: a sealed file.
            file = os.memfd_create(IDENTIFIER, os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
            with os.fdopen(file, 'wb', buffering=0) as writer:
                writer.write(data)
                seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
                fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
                socket.send_fds(self._socket, [b''], [file])


_renderer: JournalRenderer | None = None


def _journal() -> JournalRenderer:
    global _renderer
    if _renderer is None:
        _renderer = JournalRenderer()
    return _renderer


def _without_id(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Drop what is of use in the journal alone."""
    event_dict.pop('message_id', None)
    return event_dict
