# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: N802
"""org.freedesktop.LogControl1(5), which `systemctl service-log-level` uses."""

from typing import Protocol

from sockaccel.bus import polkit
from sockaccel.dbus.interface import Interface, prop

PATH = '/org/freedesktop/LogControl1'


class Log(Protocol):
    """The daemon's log (sockaccel.systemd.journal). The setters raise InvalidArgument."""

    @property
    def IDENTIFIER(self) -> str: ...
    def level(self) -> str: ...
    def set_level(self, name: str) -> None: ...
    def target(self) -> str: ...
    def set_target(self, name: str) -> None: ...


class LogControl(Interface):
    def __init__(self, log: Log) -> None:
        super().__init__('org.freedesktop.LogControl1')
        self._log = log

    @prop('s', emits='false')
    def LogLevel(self) -> str:
        return self._log.level()

    @LogLevel.setter(polkit.SET_LOG_LEVEL)
    def _set_log_level(self, value: str) -> None:
        self._log.set_level(value)

    @prop('s', emits='false')
    def LogTarget(self) -> str:
        return self._log.target()

    @LogTarget.setter(polkit.SET_LOG_LEVEL)
    def _set_log_target(self, value: str) -> None:
        self._log.set_target(value)

    @prop('s', emits='const')
    def SyslogIdentifier(self) -> str:
        return self._log.IDENTIFIER
