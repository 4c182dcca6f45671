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

from sockaccel import __version__, adoption, bus, config, journal, layout, loader, polkit, probe
from sockaccel.cgroups import Cgroups
from sockaccel.engine import Engine, Policy
from sockaccel.errors import InvalidConfiguration, KernelRefused, SockaccelError, UnsupportedKernel
from sockaccel.kernel import Kernel
from sockaccel.layout import Event, EventKind
from sockaccel.notify import Notifier
from sockaccel.probe import Finding
from sockaccel.state import StateFiles
from sockaccel.store import Pins, Store
from sockaccel.units import SystemdUnits

log = structlog.stdlib.get_logger()

# sysexits.h; the unit restarts after neither, because a restart mends neither.
EX_UNAVAILABLE, EX_CONFIG = 69, 78


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
        system_bus = await bus.connect(polkit.authorise)
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

        async def end(kind: object, _error: object, _traceback: object) -> None:
            # After a failure systemd starts us anew, or closes what is in its store.
            if notifier.store and (kind or await units.own_job() == 'restart'):
                notifier.stopping('Ending: connections stay as they are for the next start')
                await engine.leave()
                log.info('Ended; what is in the kernel waits for the next start')
            else:
                await _drain(engine, kernel, notifier)

        stack.push_async_exit(end)

        story = Story(engine)
        loop.add_reader(kernel.listen(engine.receive), kernel.consume)
        lost = BusLost(f'the bus name "{bus.NAME}" was taken away')
        manager = await bus.export(system_bus, engine, lambda: _settle(ended, lost))
        system_bus.when_lost(lambda: _settle(ended, BusLost('the connection to the system bus was lost')))

        def changed() -> None:
            manager.targets_changed()
            notifier.status(status(engine))

        def happened(event: Event, target: str) -> None:
            story.tell(event, target)
            manager.publish(event, target)

        async def reload() -> None:
            notifier.reloading()
            await apply(read_settings, settings, engine, kernel)
            notifier.reloaded(status(engine))

        reloads: set[asyncio.Task[None]] = set()

        def start_reload() -> None:
            task = loop.create_task(reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        await engine.start()
        loop.add_reader(cgroups.fd, cgroups.consume)
        engine.on_change, engine.on_event = changed, happened
        loop.add_signal_handler(signal.SIGHUP, start_reload)
        await system_bus.own_name()
        _introduce(findings)
        notifier.ready(status(engine))
        await ended


def policy_of(settings: config.Config) -> Policy:
    return Policy(settings.accept_kernel_issues, settings.blocking_readers, settings.join_delay_ms / 1000)


def _directory(kind: str, parent: str) -> Path:
    """Where systemd says that our files of a kind are (systemd.exec(5)); where it says nothing, the same place."""
    given = os.environ.get(f'{kind}_DIRECTORY', '').split(':')[0]
    return Path(given or f'{parent}/sockaccel')


async def apply(read_settings: ReadSettings, started_with: config.Config, engine: Engine, kernel: Kernel) -> None:
    """Put a changed configuration in force; one that cannot be used changes nothing."""
    try:
        settings = read_settings()
    except InvalidConfiguration as exc:
        log.error(f'Configuration not reloaded, the previous one stays in force: {exc}')
        return
    journal.configure(settings.log_level)
    await engine.reload(policy_of(settings))
    kernel.tune(settings.events_per_second, engine.policy.join_after_s)
    log.info('Configuration reloaded')
    for name, key in (('maximum_connections', 'MaximumConnections'), ('cgroup_root', 'CgroupRoot')):
        if getattr(settings, name) != getattr(started_with, name):
            log.warning(f'{key}= changes with the next restart, ignoring')


def status(engine: Engine) -> str:
    """One sentence for `systemctl status`."""
    targets = engine.targets()
    if not targets:
        return 'Idle: no targets. Add one with: sockaccelctl enable UNIT'
    return 'Accelerating: ' + ', '.join(f'{row.name} ({row.state.value})' for row in targets)


class Story:
    """Tells the journal what happens to connections. The kernel side limits how many lines a second."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def tell(self, event: Event, target: str) -> None:
        reason = self._engine.reason(event.reason)
        line = {
            EventKind.JOINED: 'Joined {flow}',
            EventKind.REFUSED: 'Left to TCP {flow}: {why}',
            EventKind.FALLBACK: 'Falls back to TCP {flow}: {why}',
            EventKind.CLOSED: 'Closed {flow}: sent {redirected} bytes redirected, {tcp} by TCP',
            EventKind.EVICTED: 'Back to TCP {flow}: {why}',
        }.get(event.kind)
        if line is None:
            return
        text = line.format(
            flow=event.flow,
            why=reason.sentence if reason else 'no reason given',
            redirected=event.redirected_bytes,
            tcp=event.tcp_bytes,
        )
        who = f' ({event.program}[{event.pid}])' if event.program else ''
        log.info(
            f'{text}{who}',
            target=target,
            src=layout.endpoint(event.flow.local, event.flow.local_port),
            dst=layout.endpoint(event.flow.remote, event.flow.remote_port),
            reason=reason.name if reason else None,
            program=event.program,
        )


def _introduce(findings: list[Finding]) -> None:
    log.info(f'sockaccel {__version__} is ready', version=__version__)
    for finding in findings:
        if finding.severity == 'issue':
            log.warning(f'Kernel issue "{finding.name}": {finding.sentence}', issue=finding.name)


async def _drain(engine: Engine, kernel: Kernel, notifier: Notifier) -> None:
    notifier.stopping('Stopping: connections go back to TCP')
    left = await engine.stop()
    kernel.release()
    if left:
        log.info(f'Stopped; {left} sockets keep unread bytes and go on by TCP', draining=left)
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
    return probe.probe(await loader.load(settings.maximum_connections))


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
    log.error(f'Cannot go on: {error}')
    notifier.failed(str(error))
    return code


if __name__ == '__main__':
    sys.exit(main())
