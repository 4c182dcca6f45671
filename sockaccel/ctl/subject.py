# SPDX-License-Identifier: GPL-2.0-or-later
"""What "why" is asked about: a process, a port, an endpoint, a program or a target."""

import re
from dataclasses import dataclass
from typing import Self

from sockaccel.core.connection import endpoint
from sockaccel.core.listing import Filter
from sockaccel.core.target import UNIT_SUFFIXES, quote
from sockaccel.errors import InvalidArgument

# Bytes of a program's name that the kernel keeps (TASK_COMM_LEN, without the zero at its end).
PROGRAM_BYTES = 15
_ENDPOINT = re.compile(r'(?:\[(?P<v6>[^]]*)\]|(?P<v4>[^:]*)):(?P<port>[0-9]+)')


@dataclass(frozen=True)
class Subject:
    """words: how sentences name it. wanted: its connections."""

    words: str
    wanted: Filter

    @classmethod
    def parse(cls, text: str) -> Self:
        """PID, :PORT, ADDRESS:PORT, TARGET or PROGRAM. Raises InvalidArgument."""
        if text.isascii() and text.isdigit():
            return cls(f'process {int(text)}', Filter(pid=_within(text, 2**32 - 1)))
        if found := _ENDPOINT.fullmatch(text):
            return cls._of_endpoint(found['v6'] or found['v4'] or '', _within(found['port'], 65535))
        if text.startswith('/') or text == '*' or text.endswith(tuple(UNIT_SUFFIXES)):
            return cls(f'target {quote(text)}', Filter(target=text))
        if not text or ':' in text:
            raise InvalidArgument(
                f'{quote(text)} is no process id, ":PORT", "ADDRESS:PORT", program or target; an IPv6 address '
                'stands in brackets'
            )
        # The kernel knows no more of a name.
        program = text.encode()[:PROGRAM_BYTES].decode(errors='replace')
        return cls(f'program {quote(program)}', Filter(program=program))

    @classmethod
    def _of_endpoint(cls, address: str, port: int) -> Self:
        if not address:
            return cls(f'port {port}', Filter(port=port))
        return cls(endpoint(address, port), Filter.parse({'address': address, 'port': port}))


def _within(digits: str, most: int) -> int:
    if len(digits) > 20 or not 1 <= int(digits) <= most:
        raise InvalidArgument(f'{quote(digits)} is not a number from 1 to {most}')
    return int(digits)
