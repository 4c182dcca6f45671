# SPDX-License-Identifier: GPL-2.0-or-later
"""Watchers: BPF programs that see what a program does with its socket (bpf/watch.c).

They run when a function of the kernel is called (fentry) or returns (fexit). Each is optional: many kernels refuse
such programs, and then sockaccel does without.
"""

import errno
import os
from collections.abc import Container, Iterable, Mapping
from typing import Protocol

import structlog

from sockaccel.core.finding import Finding
from sockaccel.kernel import libbpf
from sockaccel.kernel.libbpf import BTF_KIND_FUNC, KernelTypes
from sockaccel.kernel.watched import (
    ABORTER,
    ASK_WATCHERS,
    AUDIT_WATCHERS,
    DESTROY,
    NO_FUNCTION,
    RECV_WATCHER,
    WATCHERS,
    Watcher,
    refusal,
)

log = structlog.stdlib.get_logger()


def _why_not(watcher: Watcher) -> str:
    """Why the kernel did not take a watcher."""
    number = refusal(watcher, NO_FUNCTION)
    if number != errno.EINVAL:
        return f'it takes no fentry and fexit programs: {os.strerror(number)}'
    try:
        with KernelTypes() as types:
            number = refusal(watcher, types.find(watcher.function, BTF_KIND_FUNC))
    except KeyError:
        return f'it has no function {watcher.function}()'
    return os.strerror(number) if number else 'it does not take the BPF program'


def findings(programs: Container[str], probed: Iterable[Finding] = ()) -> list[Finding]:
    """What is to be said of this kernel with watchers. programs: the names of those that are loaded.

    probed: what the start-up probes found. Where it is seen who asks FIONREAD a wrong answer is no issue any more.
    Without the watcher of recv() nothing tells a reader that uses splice(), which is an issue.
    """
    found = [_with_watchers(finding, programs) for finding in probed]
    if RECV_WATCHER in programs:
        seen = Finding('splice', 'ok', 'a reader gets redirected bytes only after it was seen to use recv()')
        return [*found, seen, *_notes(programs)]
    return [
        *found,
        Finding(
            'splice', 'issue',
            'programs that read by splice() lose what is redirected to them, and this kernel does not let '
            f'sockaccel see who does ({_why_not(WATCHERS[RECV_WATCHER])}); proxies do: those in Go that copy from '
            'one TCP connection to another, docker-proxy, rootlessport, systemd-socket-proxyd, HAProxy with '
            'option splice-auto, splice-request or splice-response, pasta',
        ),
    ]  # fmt: skip


def _with_watchers(finding: Finding, programs: Container[str]) -> Finding:
    """A finding of the probes, as it is with watchers."""
    if finding.name != 'fionread' or finding.severity != 'issue' or not sees_who_asks(programs):
        return finding
    sentence = f'{finding.sentence}; sockaccel sees who asks, and leaves the connections of these programs to TCP'
    return Finding('fionread', 'note', sentence)


def sees_who_asks(programs: Container[str]) -> bool:
    """Whether every ioctl(FIONREAD) is seen: a kernel need not have a function of its own for members."""
    of_all, of_members = ASK_WATCHERS
    return of_all in programs and (of_members in programs or _lacks(WATCHERS[of_members].function))


def unneeded(probed: Iterable[Finding]) -> frozenset[str]:
    """The watchers that would see nothing that matters on this kernel."""
    right = any(finding.name == 'fionread' and finding.severity == 'ok' for finding in probed)
    return frozenset(ASK_WATCHERS) if right else frozenset()


def _lacks(function: str) -> bool:
    try:
        with KernelTypes() as types:
            types.find(function, BTF_KIND_FUNC)
    except KeyError:
        return True
    return False


def _notes(programs: Container[str]) -> list[Finding]:
    """What is not seen without those that this kernel refuses. One that watches what it has not is not missing."""
    return [
        Finding(
            'watchers', 'note',
            f'sockaccel does not see {watcher.what}: {watcher.function}() cannot be watched on this kernel '
            f'({_why_not(watcher)})',
        )
        for name, watcher in WATCHERS.items()
        if name not in programs and not (name == ASK_WATCHERS[1] and _lacks(watcher.function))
    ] + [
        Finding(
            'watchers', 'note',
            'a connection whose reader mixes recv() and splice() is not aborted when it breaks: this kernel has '
            f'no {DESTROY}(); what is sent to such a reader fails',
        )
        for name in (ABORTER,)
        if name not in programs
    ]  # fmt: skip


class Keeper(Protocol):
    """Where links outlive the process (sockaccel.kernel.adoption)."""

    def keep_watcher(self, name: str, link: int) -> None: ...

    def drop_watchers(self, names: Iterable[str]) -> None: ...


class Watchers:
    """The links of the watchers.

    programs: fds by name, of which those of watchers are used; links: those of an earlier process, by the names of
    their programs, which belong to this object from now on. unneeded: those that would see nothing that matters.
    """

    def __init__(
        self,
        programs: Mapping[str, int],
        links: Mapping[str, int],
        keeper: Keeper,
        unneeded: Container[str] = (),
    ) -> None:
        self._programs = {name: programs[name] for name in WATCHERS if name in programs and name not in unneeded}
        self._links = dict(links)
        self._keeper = keeper
        # What is attached for audits alone ends with the process.
        self._audits = False
        self._unkept: set[str] = set()

    def attach(self, wanted: Container[str] = ()) -> None:
        """Attach every watcher that is always needed. What one that fails would see goes by TCP.

        wanted: which of those on demand are needed too.
        """
        for name in self._programs:
            if not WATCHERS[name].on_demand or name in wanted:
                self._attach(name)

    def demand(self, name: str, *, needed: bool) -> None:
        """Attach one that is not always needed, or detach it. Again is no error."""
        if needed and name in self._programs:
            self._attach(name)
        elif not needed and name in self._links:
            self._keeper.drop_watchers([name])
            os.close(self._links.pop(name))

    def serve_audits(self, *, wanted: bool) -> None:
        """Attach what audits need while no target is enabled, or detach it if no target is. Again is no error."""
        self._audits = wanted
        if wanted:
            for name in AUDIT_WATCHERS:
                if name in self._programs and name not in self._links:
                    self._attach(name, keep=False)
            return
        for name in self._unkept:
            os.close(self._links.pop(name))
        self._unkept.clear()

    def _attach(self, name: str, *, keep: bool = True) -> None:
        if name in self._links:
            if keep and name in self._unkept:
                self._unkept.discard(name)
                self._keeper.keep_watcher(name, self._links[name])
            return
        try:
            self._links[name] = libbpf.attach_function(self._programs[name], WATCHERS[name].at)
        except OSError as exc:
            log.warning(f'{WATCHERS[name].function}() cannot be watched ({exc.strerror}), ignoring')
            return
        if keep:
            self._keeper.keep_watcher(name, self._links[name])
        else:
            self._unkept.add(name)

    def detach(self) -> None:
        """Detach them all, but for what an audit needs. Again is no error."""
        self._keeper.drop_watchers(list(self._links))
        for name in list(self._links):
            if self._audits and name in AUDIT_WATCHERS:
                self._unkept.add(name)
            else:
                os.close(self._links.pop(name))

    def close(self) -> None:
        """Close the fds: what the store keeps stays attached."""
        for fd in self._links.values():
            os.close(fd)
        self._links.clear()
        self._unkept.clear()

    def __contains__(self, name: str) -> bool:
        """Whether a watcher is attached."""
        return name in self._links
