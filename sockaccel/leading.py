# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts the parts together that lead connections to proxies, as sockaccel.daemon does for the others."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import structlog

from sockaccel.core.interceptions import Interceptions
from sockaccel.core.led import LeadKernel
from sockaccel.core.led_keys import Led
from sockaccel.core.store import Store
from sockaccel.errors import SockaccelError, SystemRefused
from sockaccel.kernel.lead import Lead, Source
from sockaccel.systemd.cgroups import Cgroups
from sockaccel.systemd.leadfile import LeadFile

log = structlog.stdlib.get_logger()


class Leading:
    """Made while the daemon has its capabilities, since the process that may load the programs is started here.

    cgroups: of its own, because each follows a name once. state: the directory of what is remembered.
    """

    def __init__(self, store: Store, cgroups: Cgroups, state: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._cgroups = cgroups
        self._lead: Lead | None = None
        self._failure = ''
        file = LeadFile(state)
        remembered = file.read()
        self._source: Source | None = None
        try:
            self._source = Source(store, cgroups.open_root, cgroups.directory)
        except OSError as exc:
            self._failure = f'the process that would load the programs cannot be started ({exc.strerror})'
        self._needed = bool(remembered) or bool(self._source and self._source.holds_links)
        self.interceptions = Interceptions(
            self._obtain, cgroups, file, remembered, keeps=lambda: store.keeps
        )  # fmt: skip

    def origins(self) -> Iterator[bytes]:
        """See sockaccel.core.origins."""
        return self._lead.origins() if self._lead else iter(())

    async def load(self) -> None:
        """Adopt or load the programs, if something is led. A failure is logged when `start` is called."""
        if not self._needed:
            return
        try:
            await self._obtain()
        except SockaccelError as exc:
            self._failure = str(exc)

    async def start(self, wanted: Mapping[str, Led], on_change: Callable[[], None]) -> None:
        """Go on with what is remembered, and with what the files say.

        wanted: that. on_change: called when a row of `interceptions` is another one.
        """
        await self.interceptions.start(self._lead, self._failure)
        await self.interceptions.reload(wanted)
        self._loop.add_reader(self._cgroups.fd, self._cgroups.consume)
        self.interceptions.on_change = on_change

    async def stop(self) -> None:
        """Lead nothing any more, and keep nothing for the next daemon."""
        await self.interceptions.stop()

    def close(self) -> None:
        """Close all fds. What the store has goes on leading."""
        if self._lead:
            self._lead.close()
        if self._source:
            self._source.close()
        self._cgroups.close()

    async def _obtain(self) -> LeadKernel:
        """Raises SockaccelError."""
        if self._source is None:
            raise SystemRefused(
                f'nothing can be led to a proxy: {self._failure or "the programs were not loaded"}; '
                'restart sockaccel'
            )
        source, self._source = self._source, None
        self._lead = lead = await source.obtain()
        ready = lead.listen(
            lambda slot, down, port: self.interceptions.happened(slot, down=down, port=port),
            self.interceptions.elsewhere,
            self.interceptions.drained,
        )
        self._loop.add_reader(ready, lead.consume)
        return lead
