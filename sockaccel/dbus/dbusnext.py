# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: E402
"""dbus-next: nothing else imports it. What this package repairs there is private, and differs between versions.

So importing this module raises MissingDependency with any version other than 0.2.3.
"""

import typing

from sockaccel.errors import MissingDependency

VERSION = '0.2.3'


def require(version: str) -> None:
    """Raise MissingDependency unless this is the version of dbus-next that the package repairs."""
    if version != VERSION:
        raise MissingDependency(
            f'dbus-next is version {version}, but sockaccel works with {VERSION} alone: install that version'
        )


if not hasattr(typing, 'no_type_check_decorator'):
    # Python 3.15 has it no more, and dbus-next imports it.
    setattr(typing, 'no_type_check_decorator', lambda decorator: decorator)  # noqa: B010

try:
    # Not importlib.metadata, whose import takes 25 ms of each start.
    from dbus_next.__version__ import __version__ as _found
except ImportError as exc:
    raise MissingDependency(
        f"cannot import dbus-next ({exc}): install your distribution's package python3-dbus-next {VERSION}"
    ) from exc
require(_found)

from dbus_next import BusType, Message, MessageFlag, MessageType, Variant
from dbus_next._private.constants import LITTLE_ENDIAN
from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.aio import MessageBus
from dbus_next.signature import SignatureTree

__all__ = [
    'LITTLE_ENDIAN', 'BusType', 'Message', 'MessageBus', 'MessageFlag', 'MessageType', 'SignatureTree',
    'Unmarshaller', 'Variant',
]  # fmt: skip
