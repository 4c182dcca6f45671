# SPDX-License-Identifier: GPL-2.0-or-later
"""Targets that are audited before they are enabled.

A probation lives in the daemon alone: one that its end interrupts leaves the target off, and the journal says so.
"""

import asyncio
import contextlib
import shlex
from collections.abc import Awaitable, Callable

import structlog

from sockaccel.core.audit import Report, Terms, report
from sockaccel.core.auditing import Auditor
from sockaccel.core.target import State, Target, TargetStatus, quote
from sockaccel.errors import InvalidArgument, SockaccelError

log = structlog.stdlib.get_logger()

# Targets that did not pass are listed until somebody enables or disables them, or the daemon ends.
_MAXIMUM_FAILED = 128


class Probations:
    """on_change: called when `rows` gives another answer."""

    def __init__(self, auditor: Auditor, on_change: Callable[[], None]) -> None:
        self._auditor = auditor
        self._on_change = on_change
        self._running: dict[str, tuple[asyncio.Task[None], float]] = {}
        self._failed: dict[str, str] = {}

    def rows(self) -> list[TargetStatus]:
        watched = [
            TargetStatus(
                name, State.PROBATION,
                f'watched on plain TCP for {seconds:.0f} s, then enabled if that would hurt no program',
                runtime=True,
            )
            for name, (_task, seconds) in self._running.items()
        ]  # fmt: skip
        failed = [TargetStatus(name, State.REFUSED, why, runtime=True) for name, why in self._failed.items()]
        return watched + failed

    async def begin(
        self, target: Target, seconds: float, terms: Terms, enable: Callable[[], Awaitable[None]]
    ) -> None:
        """Watch a target, then enable it if that would hurt nobody. Returns at once.

        Raises InvalidArgument, InvalidTarget, LimitExceeded.
        """
        if target.name in self._running:
            raise InvalidArgument(f'{quote(target.name)} is on probation already: wait for its end, or disable it')
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._auditor.admitted(target))
            await self._auditor.require(target)
            self._failed.pop(target.name, None)
            task = asyncio.get_running_loop().create_task(self._run(target, seconds, terms, enable))
            # Also of one that is cancelled before it begins.
            admission = stack.pop_all()
            task.add_done_callback(lambda _task: admission.close())
        self._running[target.name] = task, seconds

    async def end(self, name: str) -> bool:
        """Forget a target's probation, or that it did not pass; False if there is neither."""
        task, _seconds = self._running.pop(name, (None, 0))
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return bool(self._failed.pop(name, None)) or task is not None

    async def cancel(self) -> None:
        """End every probation: the daemon ends."""
        tasks = [task for task, _seconds in self._running.values()]
        for name, (task, seconds) in self._running.items():
            task.cancel()
            log.warning(
                f'The probation of "{name}" ends with the daemon, and the target stays off; to begin anew: '
                f'sockaccelctl enable --probation {seconds:.0f}s {shlex.quote(name)}',
                target=name,
            )
        self._running.clear()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(
        self, target: Target, seconds: float, terms: Terms, enable: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            why = objection(report(target.name, seconds, await self._auditor.run(target, seconds), terms))
        except SockaccelError as exc:
            why = str(exc)
        # Not before: whoever disables the target meanwhile means the probation.
        del self._running[target.name]
        if not why:
            try:
                await enable()
                return
            except SockaccelError as exc:
                why = str(exc)
        if len(self._failed) < _MAXIMUM_FAILED:
            self._failed[target.name] = why
        log.warning(f'{quote(target.name)} stays off after its probation: {why}', target=target.name)
        self._on_change()


def objection(found: Report) -> str:
    """Why a target should stay off, '' if nothing speaks against it. Names no program: everybody may read it."""
    audit = f'sockaccelctl audit {shlex.quote(found.target)}'
    if found.harmed:
        count = sum(each.connections for each in found.harmed)
        return f'acceleration would hurt the programs of {count} of its connections; to see which: {audit}'
    if not found.local_bytes:
        return (
            f'no connection on this host carried anything in {found.seconds:.0f} s, so nothing is known of its '
            'programs; repeat it while they work'
        )
    return ''
