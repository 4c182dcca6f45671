# SPDX-License-Identifier: GPL-2.0-or-later
"""structlog, to journald with a field for each value when systemd started us, to the terminal otherwise."""

import logging
import os
import socket
import struct
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

_SOCKET = '/run/systemd/journal/socket'
# syslog(3)
_PRIORITY = {'debug': 7, 'info': 6, 'warning': 4, 'error': 3, 'exception': 3, 'critical': 2}


def configure(level: str = 'info') -> None:
    """Set up logging for the process. level: debug, info, warning or error."""
    logging.basicConfig(format='%(message)s', stream=sys.stderr, level=level.upper(), force=True)
    to_journal = stderr_is_journal()
    last: Any = JournalRenderer() if to_journal else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            *([] if to_journal else [structlog.processors.TimeStamper('%H:%M:%S')]),
            structlog.processors.format_exc_info,
            last,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # A cached logger would not follow a change of the level.
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
    """The last processor: sends the line to journald. Where that fails the line goes to stderr as text."""

    def __init__(self, path: str = _SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __call__(self, _logger: WrappedLogger, method: str, event_dict: EventDict) -> str:
        message = str(event_dict.pop('event'))
        event_dict.pop('level', None)
        priority = _PRIORITY.get(method, 6)
        fields = {
            'MESSAGE': message,
            'PRIORITY': str(priority),
            'SYSLOG_IDENTIFIER': 'sockaccel',
        }
        if 'message_id' in event_dict:
            fields['MESSAGE_ID'] = str(event_dict.pop('message_id'))
        if 'exception' in event_dict:
            fields['MESSAGE'] = f'{message}\n{event_dict.pop("exception")}'
        for key, value in event_dict.items():
            if value is not None and value != '':
                fields[f'SOCKACCEL_{key.upper()}'] = str(value)
        try:
            self._socket.sendto(encode(fields), self._path)
        except OSError:
            return f'<{priority}>{message}'
        raise structlog.DropEvent
