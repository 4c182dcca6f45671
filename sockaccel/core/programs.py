# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of programs: listed in programs.conf, or seen by watchers and remembered by their executables."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from sockaccel.core.finding import Finding
from sockaccel.core.knowledge import WHY, Knowledge
from sockaccel.core.limits import MAX_PROGRAMS
from sockaccel.core.program_list import Listed
from sockaccel.core.target import EVERYTHING, quote
from sockaccel.errors import InvalidArgument, StateNotSaved

log = structlog.stdlib.get_logger()

# How many names a sentence has.
_NAMED = 12


@dataclass(frozen=True)
class Executable:
    """A program's file as the kernel knows it. device: s_dev of its file system, major number << 20 | minor."""

    device: int
    inode: int


@dataclass(frozen=True)
class Seen:
    """What watchers saw a program do. path: of its executable; since: the time of day, in seconds of the epoch."""

    executable: Executable
    path: str
    knowledge: Knowledge
    since: int


@dataclass(frozen=True)
class Row:
    """What is shown of a program. where: the line of programs.conf, '' for what was seen; since: 0 for the former.

    in_force: whether its connections are left to TCP for it, or its calls judged by it.
    """

    name: str
    knowledge: Knowledge
    where: str
    since: int
    in_force: bool


class Maps(Protocol):
    """What the BPF programs look into (sockaccel.kernel.known.KnownPrograms)."""

    def names(self, wanted: dict[str, Knowledge]) -> None:
        """Let these and no other names of processes be known. OSError."""

    def read(self) -> list[Seen]:
        """Every executable that is known; the path of one that the daemon wrote is ''. OSError."""

    def write(self, executable: Executable, knowledge: Knowledge) -> None:
        """Let an executable be known, or not with no knowledge. OSError, for example where there is no room."""


class Memory(Protocol):
    """What outlives the process (sockaccel.systemd.programfile.ProgramFile)."""

    def read(self) -> list[Seen]:
        """What was written last."""

    def write(self, programs: list[Seen]) -> None:
        """From any thread. Raises StateNotSaved."""


class Programs:
    """What is known, kept the same in the kernel's maps and in the memory.

    find: the executable of a path, None where there is none that the daemon can look at.
    """

    def __init__(
        self,
        maps: Maps,
        memory: Memory,
        find: Callable[[str], Executable | None],
        findings: Iterable[Finding],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._maps = maps
        self._memory = memory
        self._find = find
        self._now = now
        severity = {finding.name: finding.severity for finding in findings}
        # Of the list what watchers do not see; of what they have seen all that is a fault of this kernel.
        self._listed_applies = Knowledge(0)
        self._seen_applies = ~Knowledge.ASKS_FIONREAD
        if severity.get('splice') == 'issue':
            self._listed_applies |= Knowledge.SPLICES
        if severity.get('fionread') == 'issue':
            self._listed_applies |= Knowledge.ASKS_FIONREAD
        if self._listed_applies:
            self._listed_applies |= Knowledge.LISTENS
        if severity.get('fionread') != 'ok':
            self._seen_applies |= Knowledge.ASKS_FIONREAD
        self._listed: list[Listed] = []
        self._by_path: dict[str, Executable] = {}
        self._seen: dict[Executable, Seen] = {}
        self._writing = asyncio.Lock()
        self._told_full = False

    def start(self, listed: list[Listed]) -> None:
        """Take up what is remembered and what the kernel still has, and put the list in force."""
        for seen in self._memory.read():
            there = self._find(seen.path)
            # Device numbers change with a reboot. Another inode is another file, which may be another program.
            if there and there.inode == seen.executable.inode:
                self._seen[there] = replace(seen, executable=there)
        for held in self._maps.read():
            if held.path:
                self._add(held)
            elif held.executable not in self._seen:
                self._maps.write(held.executable, Knowledge(0))
        self.use(listed)

    def use(self, listed: list[Listed]) -> None:
        """Put another list in force."""
        before = set(self._by_path.values())
        self._listed = listed
        self._by_path = {}
        names: dict[str, Knowledge] = {}
        for each in listed:
            if each.is_path:
                if found := self._find(each.name):
                    self._by_path[each.name] = found
                else:
                    log.warning(f'No executable is at {quote(each.name)} ({each.where}), ignoring')
            elif applies := each.knowledge & self._listed_applies:
                names[each.name] = names.get(each.name, Knowledge(0)) | applies
        self._maps.names(names)
        for executable in before | set(self._by_path.values()) | set(self._seen):
            self._put(executable)

    def refresh(self) -> bool:
        """Take up what watchers have seen since; True if there was something, which `save` should write."""
        changed = False
        for held in self._maps.read():
            before = self._seen.get(held.executable)
            if held.path and self._add(held):
                changed = True
                now = self._seen[held.executable]
                why = '; '.join(_reasons(now.knowledge & ~(before.knowledge if before else Knowledge(0))))
                log.info(f'Remembers {quote(now.path)}: {why}', path=now.path)
        return changed

    async def save(self) -> None:
        """Write what was seen. Raises StateNotSaved."""
        async with self._writing:
            await asyncio.to_thread(self._memory.write, list(self._seen.values()))

    async def forget(self, name: str, by: str = '') -> None:
        """Forget what was seen of the executable at a path. by: who asks, for the journal.

        Raises InvalidArgument, StateNotSaved.
        """
        self.refresh()
        found = [seen for seen in self._seen.values() if seen.path == name]
        if not found:
            listed = next((each for each in self._listed if each.name == name), None)
            hint = f': it is listed in {listed.where}' if listed else ', see "sockaccelctl programs"'
            raise InvalidArgument(f'nothing that was seen is remembered of {quote(name)}{hint}')
        for seen in found:
            del self._seen[seen.executable]
            self._put(seen.executable)
        try:
            await self.save()
        except StateNotSaved:
            self._seen |= {seen.executable: seen for seen in found}
            for seen in found:
                self._put(seen.executable)
            raise
        log.info(f'Forgot what was seen of {quote(name)}, asked by {by}', path=name, caller=by)

    def rows(self, *, seen: bool = True) -> list[Row]:
        """What is known, the list first. seen: also what was seen of programs of others."""
        rows = []
        for each in self._listed:
            there = not each.is_path or each.name in self._by_path
            in_force = there and bool(each.knowledge & self._listed_applies)
            rows.append(Row(each.name, each.knowledge, each.where, 0, in_force))
        if seen:
            self.refresh()
            for found in sorted(self._seen.values(), key=lambda found: found.path):
                in_force = bool(found.knowledge & self._seen_applies)
                rows.append(Row(found.path, found.knowledge, '', found.since, in_force))
        return rows

    def sentence(self, target: str) -> str:
        """Which programs are kept out where the kernel has an issue, for whoever is about to accept it."""
        named = list(
            dict.fromkeys(row.name for row in self.rows() if row.in_force and row.knowledge != Knowledge.LISTENS)
        )
        known = 'No program is known by name (programs.conf)'
        if named:
            more = f' and {len(named) - _NAMED} more' if len(named) > _NAMED else ''
            known = f'Known, and left to TCP: {", ".join(named[:_NAMED])}{more} (sockaccelctl programs)'
        if target == EVERYTHING:
            return (
                f'{known}. "*" covers every other program of this host as well, also those that nobody here '
                'knows and those that are installed later: one that does it loses bytes or stalls, and nothing '
                'tells you. Rather enable the units whose programs you know'
            )
        return f'{known}; any other of its programs that does it loses bytes or stalls'

    def _add(self, held: Seen) -> bool:
        """Whether this is more than was known."""
        before = self._seen.get(held.executable)
        if before and held.knowledge | before.knowledge == before.knowledge:
            return False
        if not before and len(self._seen) >= MAX_PROGRAMS:
            if not self._told_full:
                log.warning(
                    f'{MAX_PROGRAMS} programs are remembered, and no further one will be: forget some with '
                    '"sockaccelctl programs --forget PATH"'
                )
            self._told_full = True
            return False
        known = before.knowledge if before else Knowledge(0)
        path = before.path if before and before.path else held.path
        since = before.since if before else held.since
        self._seen[held.executable] = Seen(held.executable, path, known | held.knowledge, since)
        return True

    def _put(self, executable: Executable) -> None:
        """Write to the kernel what is known of an executable."""
        knowledge = Knowledge(0)
        if seen := self._seen.get(executable):
            knowledge |= seen.knowledge & self._seen_applies
        for each in self._listed:
            if self._by_path.get(each.name) == executable:
                knowledge |= each.knowledge & self._listed_applies
        try:
            self._maps.write(executable, knowledge)
        except OSError as exc:
            log.warning(f'A known program cannot be kept out ({exc.strerror}), ignoring')


def _reasons(knowledge: Knowledge) -> list[str]:
    return [WHY[each] for each in Knowledge if each in knowledge]
