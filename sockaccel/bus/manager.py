# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: N802
"""org.sockaccel1.Manager: one line for each member over the core.

packaging/dbus/org.sockaccel1.Manager.xml says what each member means.
"""

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from sockaccel import __version__
from sockaccel.bus import encoding, polkit
from sockaccel.bus.audits import Audits
from sockaccel.bus.encoding import Row
from sockaccel.bus.events import Followers, Wanted
from sockaccel.bus.streams import Streams
from sockaccel.core import words
from sockaccel.core.audit import Report, Terms
from sockaccel.core.config import Config
from sockaccel.core.connection import Counter, Event
from sockaccel.core.finding import Finding
from sockaccel.core.led import InterceptionStatus
from sockaccel.core.listing import Connections, Filter, Viewer
from sockaccel.core.policies import Settings
from sockaccel.core.programs import Row as Program
from sockaccel.core.target import Target, TargetStatus
from sockaccel.dbus.connection import Connection
from sockaccel.dbus.interface import Interface, Signal, method, prop
from sockaccel.dbus.limits import Limit
from sockaccel.dbus.message import Variant, plain
from sockaccel.dbus.serving import caller
from sockaccel.errors import InvalidArgument

Options = Mapping[str, Variant]
Counts = dict[str, int]


class Programs(Protocol):
    """What the manager asks of sockaccel.core.programs.Programs."""

    def rows(self, *, seen: bool = True) -> list[Program]: ...
    async def forget(self, name: str, by: str = '') -> None: ...


class Core(Protocol):
    """What the manager asks of the core (sockaccel.core.engine.Engine)."""

    @property
    def counters(self) -> list[Counter]: ...
    @property
    def findings(self) -> list[Finding]: ...
    @property
    def programs(self) -> Programs: ...
    async def enable(
        self, name: str, settings: Settings, *, runtime: bool = False, wait: bool = False, by: str = ''
    ) -> None: ...
    async def set_policy(self, name: str, settings: Settings, *, by: str = '') -> None: ...
    async def enable_after(
        self, seconds: int, name: str, settings: Settings, *, runtime: bool = False, by: str = ''
    ) -> None: ...
    async def audit(self, name: str, seconds: int = ...) -> tuple[Report, Terms]: ...
    async def disable(self, name: str, *, runtime: bool = False, by: str = '') -> None: ...
    def targets(self) -> list[TargetStatus]: ...
    def stats(self) -> Counts: ...
    def target_stats(self, name: str) -> Counts: ...
    def stats_since_reset(self, name: str) -> Counts: ...
    def reset_counters(self, name: str) -> None: ...
    def reason(self, index: int) -> Counter | None: ...


class Interceptions(Protocol):
    """The same for what is led to proxies (sockaccel.core.interceptions)."""

    async def intercept(
        self, target: str, proxy: str, options: Mapping[str, Any], *, by: str = ''
    ) -> InterceptionStatus: ...
    async def release(self, target: str, *, by: str = '') -> None: ...
    def rows(self) -> list[InterceptionStatus]: ...


class Manager(Interface):
    """reload: reads the configuration anew, for the caller that it is told. settings: what is in force.

    may_inspect: whether a client of the bus may know whose connections are. netns: the only network namespace that
    others see, by cookie.
    """

    TargetChanged = Signal('s target, a{sv} row')

    def __init__(
        self,
        connection: Connection,
        core: Core,
        interceptions: Interceptions,
        connections: Connections,
        streams: Streams,
        reload: Callable[[str], Awaitable[None]],
        settings: Callable[[], Config],
        may_inspect: Callable[[str], Awaitable[bool]],
        netns: int,
    ) -> None:
        super().__init__(words.MANAGER)
        self._connection = connection
        self._core = core
        self._interceptions = interceptions
        self._connections = connections
        self._streams = streams
        self._reload = reload
        self._settings = settings
        self._may_inspect = may_inspect
        self._netns = netns
        self._followers = Followers()
        self._listing = Limit('listings in progress', 'wait for an answer', each=2, privileged=8, together=16)
        self._told: dict[str, TargetStatus] = {}
        self._audits = Audits(connection)

    @method('s target', action=polkit.ENABLE)
    async def Enable(self, target: str) -> None:
        await self._core.enable(target, {}, by=await self._caller())

    @method('s target, a{sv} options', 'a{sv} row', action=polkit.ENABLE)
    async def EnableWithOptions(self, target: str, options: Options) -> Row:
        chosen = encoding.enable_options(options)
        await self._enable(target, by=await self._caller(), **chosen)
        return self._row(target)

    @method('s target, a{sv} settings', 'a{sv} row', action=polkit.ENABLE)
    async def SetPolicy(self, target: str, settings: Options) -> Row:
        await self._core.set_policy(target, encoding.settings(settings), by=await self._caller())
        return self._row(target)

    @method('s target, a{sv} options', 'a{sv} report', action=polkit.INSPECT)
    async def Audit(self, target: str, options: Options) -> Row:
        chosen = encoding.options(options, seconds='u')
        return await self._audits.run(lambda: self._core.audit(target, **chosen))

    @method('s target', action=polkit.DISABLE)
    async def Disable(self, target: str) -> None:
        await self._core.disable(target, by=await self._caller())

    @method('s target, a{sv} options', 'a{sv} row', action=polkit.DISABLE)
    async def DisableWithOptions(self, target: str, options: Options) -> Row:
        chosen = encoding.options(options, runtime='b')
        await self._core.disable(target, by=await self._caller(), **chosen)
        return self._row(target)

    @method('', 'aa{sv} targets', action=None)
    def ListTargets(self) -> list[Row]:
        return [encoding.target(status) for status in self._core.targets()]

    @method('s target, s proxy, a{sv} options', 'a{sv} row', action=polkit.INTERCEPT)
    async def Intercept(self, target: str, proxy: str, options: Options) -> Row:
        chosen = encoding.options(options, **encoding.INTERCEPTION_OPTIONS)
        status = await self._interceptions.intercept(target, proxy, chosen, by=await self._caller())
        return encoding.interception(status)

    @method('s target', action=polkit.INTERCEPT)
    async def Release(self, target: str) -> None:
        await self._interceptions.release(target, by=await self._caller())

    @method('', 'aa{sv} interceptions', action=None)
    def ListInterceptions(self) -> list[Row]:
        return [encoding.interception(status) for status in self._interceptions.rows()]

    @method('a{sv} filter, t listing, t offset', 'aa{sv} connections, t total, t listing', action=None)
    async def ListConnections(self, wanted: Options, listing: int, offset: int) -> tuple[list[Row], int, int]:
        viewer = await self._viewer()
        chosen = Filter.parse(plain(wanted))
        self._listing.take(viewer.user)
        try:
            page = await self._connections.page(chosen, listing, offset, viewer)
        finally:
            self._listing.give_back(viewer.user)
        return list(map(encoding.connection, page.connections)), page.total, page.listing

    @method('a{sv} options', 'h stream', action=None)
    async def StreamEnds(self, options: Options) -> socket.socket:
        encoding.options(options)
        return self._streams.add(await self._viewer())

    @method('', 'a{st} counters', action=None)
    def Stats(self) -> Counts:
        return self._core.stats()

    @method('s target', 'a{st} counters', action=None)
    def TargetStats(self, target: str) -> Counts:
        return self._core.target_stats(target)

    @method('s target', 'a{st} counters', action=None)
    def StatsSinceReset(self, target: str) -> Counts:
        return self._core.stats_since_reset(target)

    @method('s target', action=polkit.RESET_COUNTERS)
    def ResetCounters(self, target: str) -> None:
        self._core.reset_counters(target)

    @method('', 'aa{sv} counters', action=None)
    def DescribeCounters(self) -> list[Row]:
        return [encoding.counter(counter) for counter in self._core.counters]

    @method('', 'aa{sv} findings', action=None)
    def ListFindings(self) -> list[Row]:
        return [encoding.finding(finding) for finding in self._core.findings]

    @method('', 'aa{sv} programs', action=None)
    async def ListPrograms(self) -> list[Row]:
        viewer = await self._viewer()
        return [encoding.program(row) for row in self._core.programs.rows(seen=viewer.sees_programs)]

    @method('s program', action=polkit.FORGET_PROGRAM)
    async def ForgetProgram(self, program: str) -> None:
        await self._core.programs.forget(program, by=await self._caller())

    @method('', 'aa{sv} settings', action=None)
    def ListConfiguration(self) -> list[Row]:
        return [encoding.setting(*row) for row in self._settings().rows()]

    @method(action=polkit.RELOAD)
    async def Reload(self) -> None:
        await self._reload(await self._caller())

    @method('a{sv} filter', 'h stream', action=None)
    async def Subscribe(self, wanted: Options) -> socket.socket:
        viewer = await self._viewer()
        return self._followers.add(viewer, Wanted.parse(plain(wanted), viewer))

    @prop('s', emits='const')
    def Version(self) -> str:
        return __version__

    @prop('s', emits='const')
    def KernelRelease(self) -> str:
        return os.uname().release

    @prop('as')
    def Targets(self) -> list[str]:
        return [status.name for status in self._core.targets()]

    @prop('s')
    def Degraded(self) -> str:
        return '; '.join(finding.sentence for finding in self._core.findings if finding.severity == 'issue')

    def targets_changed(self) -> None:
        """Tell the bus what is different from the last time."""
        now = self._by_name()
        for name in self._told.keys() - now.keys():
            self.emit(Manager.TargetChanged, name, encoding.no_target(name))
        for name, status in now.items():
            if self._told.get(name) != status:
                self.emit(Manager.TargetChanged, name, encoding.target(status))
        self._told = now
        self.properties_changed('Targets', 'Degraded')

    def publish(self, event: Event, target: str) -> None:
        """Tell those who follow the events."""
        self._followers.publish(event, target, self._core.reason(event.reason))

    def sender_gone(self, name: str) -> None:
        """A client has left the bus."""
        self._audits.sender_gone(name)

    def close(self) -> None:
        """End all that follows the events, and the listings that are being read."""
        self._followers.close()
        self._streams.close()

    async def _enable(
        self, target: str, *, wait: bool = False, probation: int | None = None, **chosen: Any
    ) -> None:
        if probation is None:
            await self._core.enable(target, wait=wait, **chosen)
        elif wait:
            raise InvalidArgument('option "probation" watches what is there, so it cannot go with "wait"')
        else:
            await self._core.enable_after(probation, target, **chosen)

    def _by_name(self) -> dict[str, TargetStatus]:
        """One that is enabled again while its former connections drain has two rows, of which the first counts."""
        return {status.name: status for status in reversed(self._core.targets())}

    def _row(self, target: str) -> Row:
        name = Target.parse(target).name
        status = self._by_name().get(name)
        return encoding.target(status) if status else encoding.no_target(name)

    async def _caller(self) -> str:
        """Who makes the call that is being served, for the journal. Raises NotPermitted if it has left."""
        return await self._connection.describe(caller())

    async def _viewer(self) -> Viewer:
        """Who makes the call that is served now, and what they may see. Raises NotPermitted if they have left."""
        sender = caller()
        user = await self._connection.user_of(sender)
        return Viewer(user, None if await self._may_inspect(sender) else self._netns)
