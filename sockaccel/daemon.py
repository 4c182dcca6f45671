# SPDX-License-Identifier: GPL-2.0-or-later
"""The process: makes the parts and connects them. Nothing else imports from every room."""

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
from sockaccel.bus.service import Service
from sockaccel.core import capabilities, config, heap, messages, program_list, words
from sockaccel.core.connection import Event
from sockaccel.core.engine import Engine, asked_by
from sockaccel.core.finding import Finding
from sockaccel.core.interceptions import Interceptions
from sockaccel.core.listing import Connections, Sight
from sockaccel.core.program_list import Listed
from sockaccel.core.programs import Programs
from sockaccel.core.store import Store
from sockaccel.core.story import Story
from sockaccel.errors import InvalidConfiguration, SockaccelError, SystemRefused, UnsupportedKernel
from sockaccel.kernel import abi, adoption, executables, probe, programs, watchers
from sockaccel.kernel.ends import Ends, own_netns
from sockaccel.kernel.known import KnownPrograms
from sockaccel.kernel.live import Kernel
from sockaccel.kernel.pins import Pins
from sockaccel.kernel.shelf import shelves
from sockaccel.leading import Leading
from sockaccel.systemd import journal
from sockaccel.systemd.cgroups import Cgroups
from sockaccel.systemd.notify import Notifier
from sockaccel.systemd.programfile import ProgramFile
from sockaccel.systemd.statefiles import StateFiles
from sockaccel.systemd.units import SystemdUnits

log = structlog.stdlib.get_logger()

# sysexits.h. A restart mends neither, so the unit has them in RestartPreventExitStatus=.
EX_UNAVAILABLE, EX_CONFIG = 69, 78
# How many of the sockets that a stop leaves in the map are named in the log.
_HELD_NAMED = 10


class BusLost(SockaccelError):
    """The bus, or the name on it, is gone. systemd starts the daemon anew."""


# Reads the files anew: at the start, and for each reload.
ReadSettings = Callable[[], config.Config]
ReadPrograms = Callable[[], list[Listed]]


class Daemon:
    """The parts, from the connection to the bus to the Manager that is exported on it.

    Each step may raise SockaccelError or OSError. What is to be undone at the end is on `stack`.
    """

    def __init__(
        self,
        read_settings: ReadSettings,
        read_programs: ReadPrograms,
        notifier: Notifier,
        stack: contextlib.AsyncExitStack,
    ) -> None:
        self._read_settings = read_settings
        self._read_programs = read_programs
        self._notifier = notifier
        self._stack = stack
        self._settings = read_settings()
        self._listed = read_programs()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._remembering: set[asyncio.Task[None]] = set()
        journal.configure(self._settings.log_level)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._end)

    async def start(self) -> None:
        """Make all parts and take up work. The bus name comes last: who waits for it finds everything in place."""
        await self._connect()
        self._find_state()
        await self._load()
        self._make_engine()
        # On the way out: first what the engine and the kernel hold, then the parts themselves.
        self._stack.push_async_exit(self._leave)
        self._loop.add_reader(self._kernel.listen(self._engine.receive), self._engine.consume)
        await self._export()
        await self._engine.start()
        await self._leading.start(self._settings.led(), self._targets_changed)
        self._loop.add_reader(self._cgroups.fd, self._cgroups.consume)
        self._engine.on_change, self._engine.on_event = self._targets_changed, self._connection_event
        self._engine.on_program = self._program_seen
        self._loop.add_signal_handler(signal.SIGHUP, self._configuration.reload_later)
        await self._service.take_name()
        _introduce(self._findings)
        self._notifier.ready(status(self._engine))

    async def wait(self) -> None:
        """Until SIGTERM or SIGINT. Raises BusLost."""
        await self._ended

    async def _connect(self) -> None:
        self._service = await Service.open()
        self._stack.push_async_callback(self._service.close)
        self._units = SystemdUnits(self._service.connection)

    def _find_state(self) -> None:
        """Find the cgroup tree, what an earlier daemon remembered, and where it kept its kernel objects."""
        self._cgroups = Cgroups(self._units, self._settings.cgroup_root)
        self._stack.callback(self._cgroups.close)
        lasting = _directory('STATE', '/var/lib')
        self._memory = StateFiles(lasting, _directory('RUNTIME', '/run'))
        self._program_file = ProgramFile(lasting)
        self._stack.callback(self._memory.close)
        self._memory.lock()
        store: Store = self._notifier.store or Pins()
        self._stack.callback(store.close)
        self._store, self._lead_store = shelves(store)

    async def _load(self) -> None:
        """Adopt the kernel objects of an earlier daemon or load new ones, and probe this kernel."""
        objects = await adoption.obtain(self._store, self._settings.maximum_connections)
        self._counters = abi.COUNTERS
        probed = probe.probe(objects.fds)
        self._kernel = Kernel(
            objects, self._counters, self._settings.events_per_second, watchers.unneeded(probed),
            remembers=self._settings.remember_programs,
        )  # fmt: skip
        self._stack.callback(self._kernel.close)
        if not self._notifier.store:
            self._stack.callback(self._kernel.release)
        self._findings = watchers.findings(objects.fds, probed)
        self._known = KnownPrograms(objects.fds)
        followers = Cgroups(SystemdUnits(self._service.connection), self._settings.cgroup_root)
        self._leading = Leading(self._lead_store, followers, _directory('STATE', '/var/lib'))
        self._stack.callback(self._leading.close)
        await self._leading.load()
        # To make maps and programs was all that needs any: links, walks and updates need file descriptors alone.
        # asyncio of Python 3.11 has waited for the loader in a thread, which ends by itself.
        if others := capabilities.drop():
            log.warning(f'{others} threads that sockaccel did not start keep their capabilities, ignoring')

    def _make_engine(self) -> None:
        self._programs = Programs(self._known, self._program_file, executables.find, self._findings)
        self._programs.start(self._listed)
        self._engine = Engine(
            self._kernel, self._cgroups, self._memory, self._loop, self._counters, self._findings,
            self._memory.read(), self._settings.policies, self._programs,
        )  # fmt: skip
        self._story = Story(self._engine.reason, lambda: self._engine.stats()['events_suppressed'])

    async def _export(self) -> None:
        self._configuration = Configuration(
            self._read_settings, self._read_programs, self._settings, self._engine, self._leading.interceptions,
            self._kernel, self._notifier,
        )  # fmt: skip
        sight = Sight(
            Ends(self._kernel.list_ends),
            self._cgroups.paths,
            self._engine.target_of_slot,
            self._counters,
            self._loop,
            self._leading.origins,
        )
        self._manager = await self._service.export(
            self._engine,
            self._leading.interceptions,
            Connections(sight, self._loop),
            self._configuration.reload,
            lambda: self._configuration.in_force,
            journal,
            lambda: self._end(BusLost(f'the bus name "{words.BUS_NAME}" was taken away')),
            own_netns(),
        )
        lost = BusLost('the connection to the system bus was lost')
        self._service.connection.when_lost(lambda: self._end(lost))

    def _targets_changed(self) -> None:
        self._manager.targets_changed()
        self._story.finish(frozenset(row.name for row in self._engine.targets()))
        self._notifier.status(status(self._engine))

    def _connection_event(self, event: Event, target: str) -> None:
        self._story.tell(event, target)
        self._manager.publish(event, target)

    def _program_seen(self) -> None:
        task = self._loop.create_task(self._remember_programs())
        self._remembering.add(task)
        task.add_done_callback(self._remembering.discard)

    async def _remember_programs(self) -> None:
        try:
            if self._programs.refresh():
                await self._programs.save()
        except (SockaccelError, OSError) as exc:
            log.warning(f'What was seen of programs is forgotten at the next start: {exc}, ignoring')

    def _end(self, error: SockaccelError | None = None) -> None:
        """Let `wait` return, or raise the error. Only the first call counts."""
        if self._ended.done():
            return
        if error:
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    async def _leave(self, kind: object, _error: object, _traceback: object) -> None:
        """Hand over to the next daemon, or take everything out of the kernel.

        After a failure systemd starts the next daemon, or closes what is in its store. Without that store each
        exit gives the connections back to TCP.
        """
        if self._notifier.store and (kind or await self._units.own_job() == 'restart'):
            self._notifier.stopping('Ending: connections stay as they are for the next start')
            await self._engine.leave()
            self._story.finish()
            log.info('Ended; what is in the kernel waits for the next start')
        else:
            self._notifier.stopping('Stopping: connections go back to TCP')
            await self._leading.stop()
            held = await self._engine.stop()
            self._story.finish()
            self._kernel.release()
            _report_stopped(held)


async def run(read_settings: ReadSettings, read_programs: ReadPrograms, notifier: Notifier) -> None:
    """Run until SIGTERM or SIGINT. Raises SockaccelError.

    At the end nothing stays attached, unless another daemon is about to take over.
    """
    async with contextlib.AsyncExitStack() as stack:
        daemon = Daemon(read_settings, read_programs, notifier, stack)
        await daemon.start()
        await daemon.wait()


class Configuration:
    """The settings that are in force, and their reload."""

    def __init__(
        self,
        read: ReadSettings,
        read_programs: ReadPrograms,
        settings: config.Config,
        engine: Engine,
        interceptions: Interceptions,
        kernel: Kernel,
        notifier: Notifier,
    ) -> None:
        self._interceptions = interceptions
        self._read = read
        self._read_programs = read_programs
        self._started_with = self.in_force = settings
        self._engine = engine
        self._kernel = kernel
        self._notifier = notifier
        self._reloads: set[asyncio.Task[None]] = set()

    async def reload(self, by: str = '') -> None:
        """Put in force what the files say. by: who asked for it.

        Raises InvalidConfiguration; then nothing was changed.
        """
        self._notifier.reloading()
        try:
            await self._apply(self._read(), self._read_programs())
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
        """Reload in a task and log its errors: for a signal handler."""
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

    async def _apply(self, settings: config.Config, listed: list[Listed]) -> None:
        self._engine.programs.use(listed)
        await self._engine.reload(settings.policies)
        await self._interceptions.reload(settings.led())
        if settings.log_level != self.in_force.log_level:
            journal.set_level(settings.log_level)
        self._kernel.tune(settings.events_per_second, remembers=settings.remember_programs)
        self.in_force = settings


def _directory(kind: str, parent: str) -> Path:
    """As $STATE_DIRECTORY or $RUNTIME_DIRECTORY says (systemd.exec(5)), without systemd below `parent`."""
    given = os.environ.get(f'{kind}_DIRECTORY', '').split(':')[0]
    return Path(given or f'{parent}/sockaccel')


def status(engine: Engine) -> str:
    """A sentence for STATUS= of sd_notify(3), which `systemctl status` shows."""
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


def _report_stopped(held: list[Event]) -> None:
    """held: the ends that stay in the map."""
    if not held:
        log.info('Stopped; nothing is left in the kernel')
        return
    named = [f'{end.flow} ({end.program or "unknown"}[{end.pid}])' for end in held[:_HELD_NAMED]]
    if len(held) > len(named):
        named.append(f'and {len(held) - len(named)} more')
    log.info(
        f'Stopped; {len(held)} sockets keep unread bytes, go on by TCP, and hold a part of the kernel memory '
        f'until they are closed: {", ".join(named)}',
        draining=len(held),
    )


async def check(settings: config.Config) -> list[Finding]:
    """The findings of a start, without the bus name and with nothing attached. Raises SockaccelError."""
    fds = await programs.load(settings.maximum_connections)
    return watchers.findings(fds, probe.probe(fds))


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 stopped as asked, 1 failed, 2 wrong usage, 69 kernel unfit, 78 wrong configuration."""
    parser = argparse.ArgumentParser(
        prog='sockaccel', description='Makes TCP between processes of this host faster.'
    )
    parser.add_argument('--version', action='version', version=f'sockaccel {__version__}')
    parser.add_argument('--check', action='store_true', help='probe this kernel, say what was found, and end')
    parser.add_argument('--config', type=Path, metavar='FILE', help='read this file instead of the installed ones')
    sentence = 'read this list of programs instead of the installed ones'
    parser.add_argument('--programs', type=Path, metavar='FILE', help=sentence)
    options = parser.parse_args(arguments)

    heap.keep_large_apart()
    notifier = Notifier()
    journal.configure()

    def read_settings() -> config.Config:
        return config.load([options.config] if options.config else config.files())

    def read_programs() -> list[Listed]:
        return program_list.load([options.programs] if options.programs else program_list.files())

    try:
        if options.check:
            for finding in asyncio.run(check(read_settings())):
                print(f'{finding.severity:5} {finding.name}: {finding.sentence}', flush=True)
            return 0
        asyncio.run(run(read_settings, read_programs, notifier))
    except InvalidConfiguration as exc:
        return _fail(exc, notifier, EX_CONFIG)
    except UnsupportedKernel as exc:
        return _fail(exc, notifier, EX_UNAVAILABLE)
    except SockaccelError as exc:
        return _fail(exc, notifier, 1)
    except OSError as exc:
        return _fail(SystemRefused(f'the system refused a call ({exc})'), notifier, 1)
    return 0


def _fail(error: SockaccelError, notifier: Notifier, code: int) -> int:
    for note in getattr(error, '__notes__', []):
        log.debug(note)
    log.error(f'Cannot go on: {error}', message_id=messages.CANNOT_GO_ON)
    notifier.failed(str(error))
    return code


if __name__ == '__main__':
    sys.exit(main())
