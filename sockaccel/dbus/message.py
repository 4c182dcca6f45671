# SPDX-License-Identifier: GPL-2.0-or-later
"""A D-Bus message, its values as plain Python ones, and the names of the D-Bus specification."""

from typing import Any

from sockaccel.dbus.dbusnext import Message, MessageFlag, MessageType, Variant
from sockaccel.errors import SockaccelError

__all__ = ['Message', 'MessageFlag', 'MessageType', 'Variant']

DBUS, DBUS_PATH = 'org.freedesktop.DBus', '/org/freedesktop/DBus'
INTROSPECTABLE, PEER, PROPERTIES = f'{DBUS}.Introspectable', f'{DBUS}.Peer', f'{DBUS}.Properties'
FAILED = f'{DBUS}.Error.Failed'


class StandardError(SockaccelError):
    """An error of the specification. kind: what follows "org.freedesktop.DBus.Error." in its name."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.name = f'{DBUS}.Error.{kind}'


def plain(value: Any) -> Any:
    """A value without the variants in it."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value
