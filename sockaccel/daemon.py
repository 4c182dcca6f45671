# SPDX-License-Identifier: GPL-2.0-or-later
"""The process: puts the core and its edges together, in the order in which they may fail."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

from sockaccel import __version__
from sockaccel.bus import polkit
from sockaccel.bus import server as bus
from sockaccel.core import config, messages
from sockaccel.core.connection import Event
from sockaccel.core.engine import Engine, Policy, asked_by
from sockaccel.core.finding import Finding
from sockaccel.core.listing import Connections
from sockaccel.core.store import Store
from sockaccel.core.story import Story
from sockaccel.errors import InvalidConfiguration, KernelRefused, SockaccelError, UnsupportedKernel
from sockaccel.kernel import adoption, layout, probe, programs
from sockaccel.kernel.live import Kernel
from sockaccel.kernel.pins import Pins
from sockaccel.systemd import journal
from sockaccel.systemd.cgroups import Cgroups
from sockaccel.systemd.notify import Notifier
from sockaccel.systemd.statefiles import StateFiles
from sockaccel.systemd.units import SystemdUnits

log = structlog.stdlib.get_logger()

# sysexits.h; the unit restarts after neither, because a restart mends neither.
EX_UNAVAILABLE, EX_CONFIG = 69, 78
# How many of the sockets that a stop leaves in the map are named.
_HELD_NAMED = 10


class BusLost(SockaccelError):
    """The bus, or the name on it, is gone; systemd starts us anew."""


# Read at each start and reload.
ReadSettings = Callable[[], config.Config]


async def serve(read_settings: ReadSettings, notifier: Notifier) -> None:
    """Run until SIGTERM or SIGINT. Raises SockaccelError.

    On the way out nothing stays attached, unless another daemon is about to take over.
    """
    settings = read_settings()
    journal.configure(settings.log_level)
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _settle, ended)

    async with contextlib.AsyncExitStack() as stack:
        system_bus = await bus.connect(polkit.Authority().authorise)
        stack.push_async_callback(system_bus.close)
        if await system_bus.has_owner(bus.NAME):
            raise bus.already_running()
        units = SystemdUnits(system_bus)
        cgroups = Cgroups(units, settings.cgroup_root)
        stack.callback(cgroups.close)
        memory = StateFiles(_directory('STATE', '/var/lib'), _directory('RUNTIME', '/run'))
        stack.callback(memory.close)
        memory.lock()
        store: Store = notifier.store or Pins()
        stack.callback(store.close)

        objects = await adoption.obtain(store, settings.maximum_connections)
        counters = layout.counters(layout.source_directory())
        kernel = Kernel(objects, counters, settings.events_per_second, settings.join_delay_ms / 1000)
        stack.callback(kernel.close)
        if not notifier.store:
            stack.callback(kernel.release)
        findings = probe.probe(objects.fds)
        engine = Engine(kernel, cgroups, counters, findings, memory, memory.read(), policy_of(settings))
        kernel.set_rules(settings.rules)
        story = Story(engine.reason, lambda: engine.stats()['events_suppressed'])

        async def end(kind: object, _error: object, _traceback: object) -> None:
            # After a failure systemd starts us anew, or closes what is in its store.
            if notifier.store and (kind or await units.own_job() == 'restart'):
                notifier.stopping('Ending: connections stay as they are for the next start')
                await engine.leave()
                story.finish()
                log.info('Ended; what is in the kernel waits for the next start')
            else:
                await _drain(engine, kernel, notifier, story)

        stack.push_async_exit(end)

        loop.add_reader(kernel.listen(engine.receive), engine.consume)
        lost = BusLost(f'the bus name "{bus.NAME}" was taken away')
        configuration = Configuration(read_settings, settings, engine, kernel, notifier)
        manager = await bus.export(
            system_bus,
            engine,
            Connections(kernel.read_connections, cgroups.paths, engine.target_of_slot, counters),
            configuration.reload,
            lambda: configuration.in_force,
            lambda: _settle(ended, lost),
        )
        system_bus.when_lost(lambda: _settle(ended, BusLost('the connection to the system bus was lost')))

        def changed() -> None:
            manager.targets_changed()
            story.finish(frozenset(row.name for row in engine.targets()))
            notifier.status(status(engine))

        def happened(event: Event, target: str) -> None:
            story.tell(event, target)
            manager.publish(event, target)

        await engine.start()
        loop.add_reader(cgroups.fd, cgroups.consume)
        engine.on_change, engine.on_event = changed, happened
        loop.add_signal_handler(signal.SIGHUP, configuration.reload_later)
        await system_bus.own_name()
        _introduce(findings)
        notifier.ready(status(engine))
        await ended


def policy_of(settings: config.Config) -> Policy:
    return Policy(settings.accept_kernel_issues, settings.blocking_readers, settings.join_delay_ms / 1000)


class Configuration:
    """What is in force, and how it changes while the daemon runs."""

    def __init__(
        self, read: ReadSettings, settings: config.Config, engine: Engine, kernel: Kernel, notifier: Notifier
    ) -> None:
        self._read = read
        self._started_with = self.in_force = settings
        self._engine = engine
        self._kernel = kernel
        self._notifier = notifier
        self._reloads: set[asyncio.Task[None]] = set()

    async def reload(self, by: str = '') -> None:
        """Put the files' contents in force; what cannot be used changes nothing. Raises InvalidConfiguration.

        by: who asked for it.
        """
        self._notifier.reloading()
        try:
            await self._apply(self._read())
        finally:
            self._notifier.reloaded(status(self._engine))
        log.info(
            f'Configuration reloaded{asked_by(by)}',
            message_id=messages.CONFIGURATION_RELOADED,
            caller=by,
        )
        for name, key in (('maximum_connections', 'MaximumConnections'), ('cgroup_root', 'CgroupRoot')):
            if getattr(self.in_force, name) != getattr(self._started_with, name):
                log.warning(f'{key}= changes with the next restart, ignoring')

    def reload_later(self) -> None:
        """For a signal handler: in a task, whose errors go to the log."""
        task = asyncio.get_running_loop().create_task(self._reload_or_log())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_or_log(self) -> None:
        try:
            await self.reload()
        except InvalidConfiguration as exc:
            log.error(
                f'Configuration not reloaded, the previous one stays in force: {exc}',
                message_id=messages.CONFIGURATION_REJECTED,
            )

    async def _apply(self, settings: config.Config) -> None:
        if settings.log_level != self.in_force.log_level:
            journal.set_level(settings.log_level)
        policy = policy_of(settings)
        self._kernel.tune(settings.events_per_second, policy.join_after_s)
        self._kernel.set_rules(settings.rules)
        await self._engine.reload(policy)
        self.in_force = settings


def _directory(kind: str, parent: str) -> Path:
    """Where systemd says that our files of a kind are (systemd.exec(5)); where it says nothing, the same place."""
    given = os.environ.get(f'{kind}_DIRECTORY', '').split(':')[0]
    return Path(given or f'{parent}/sockaccel')


def status(engine: Engine) -> str:
    """One sentence for `systemctl status`."""
    targets = engine.targets()
    if not targets:
        return 'Idle: no targets. Add one with: sockaccelctl enable UNIT'
    return 'Accelerating: ' + ', '.join(f'{row.name} ({row.state.value})' for row in targets)


def _introduce(findings: list[Finding]) -> None:
    log.info(f'sockaccel {__version__} is ready', version=__version__, message_id=messages.READY)
    for finding in findings:
        if finding.severity == 'issue':
            log.warning(
                f'Kernel issue "{finding.name}": {finding.sentence}',
                issue=finding.name,
                message_id=messages.KERNEL_ISSUE,
            )


async def _drain(engine: Engine, kernel: Kernel, notifier: Notifier, story: Story) -> None:
    notifier.stopping('Stopping: connections go back to TCP')
    held = await engine.stop()
    story.finish()
    kernel.release()
    if held:
        named = [f'{end.flow} ({end.program or "unknown"}[{end.pid}])' for end in held[:_HELD_NAMED]]
        if len(held) > len(named):
            named.append(f'and {len(held) - len(named)} more')
        log.info(
            f'Stopped; {len(held)} sockets keep unread bytes, go on by TCP, and hold a part of the kernel memory '
            f'until they are closed: {", ".join(named)}',
            draining=len(held),
        )
    else:
        log.info('Stopped; nothing is left in the kernel')


def _settle(ended: asyncio.Future[None], error: SockaccelError | None = None) -> None:
    if ended.done():
        return
    if error:
        ended.set_exception(error)
    else:
        ended.set_result(None)


async def check(settings: config.Config) -> list[Finding]:
    """What a start would find, without taking a name or attaching anything. Raises SockaccelError."""
    return probe.probe(await programs.load(settings.maximum_connections))


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 stopped as asked, 1 failed, 2 wrong usage, 69 kernel unfit, 78 wrong configuration."""
    parser = argparse.ArgumentParser(
        prog='sockaccel', description='Makes TCP between processes of this host faster.'
    )
    parser.add_argument('--version', action='version', version=f'sockaccel {__version__}')
    parser.add_argument('--check', action='store_true', help='probe this kernel, say what was found, and end')
    parser.add_argument('--config', type=Path, metavar='FILE', help='read this file instead of the installed ones')
    options = parser.parse_args(arguments)

    notifier = Notifier()
    journal.configure()

    def read_settings() -> config.Config:
        return config.load([options.config] if options.config else config.files())

    try:
        if options.check:
            for finding in asyncio.run(check(read_settings())):
                print(f'{finding.severity:5} {finding.name}: {finding.sentence}')
            return 0
        asyncio.run(serve(read_settings, notifier))
    except InvalidConfiguration as exc:
        return _fail(exc, notifier, EX_CONFIG)
    except UnsupportedKernel as exc:
        return _fail(exc, notifier, EX_UNAVAILABLE)
    except SockaccelError as exc:
        return _fail(exc, notifier, 1)
    except OSError as exc:
        return _fail(KernelRefused(f'the system refused a call ({exc})'), notifier, 1)
    return 0


def _fail(error: SockaccelError, notifier: Notifier, code: int) -> int:
    for note in getattr(error, '__notes__', []):
        log.debug(note)
    log.error(f'Cannot go on: {error}', message_id=messages.CANNOT_GO_ON)
    notifier.failed(str(error))
    return code


if __name__ == '__main__':
    sys.exit(main())
