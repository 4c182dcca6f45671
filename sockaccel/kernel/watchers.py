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
from sockaccel.kernel.watched import NO_FUNCTION, RECV_WATCHER, WATCHERS, Watcher, refusal

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


def findings(programs: Container[str]) -> list[Finding]:
    """What is to be said of the watchers. programs: the names of those that are loaded.

    Without that of recv() nothing tells a reader that uses splice(), which is an issue.
    """
    if RECV_WATCHER in programs:
        seen = Finding('splice', 'ok', 'a reader gets redirected bytes only after it was seen to use recv()')
        missing = [watcher for name, watcher in WATCHERS.items() if name not in programs]
        return [seen, *(_note(watcher) for watcher in missing)]
    return [
        Finding(
            'splice', 'issue',
            'programs that read by splice() lose what is redirected to them, and this kernel does not let '
            f'sockaccel see who does ({_why_not(WATCHERS[RECV_WATCHER])}); proxies do: those in Go that copy from '
            'one TCP connection to another, docker-proxy, rootlessport, systemd-socket-proxyd, HAProxy with '
            'option splice-auto, splice-request or splice-response, pasta',
        )
    ]  # fmt: skip


def _note(missing: Watcher) -> Finding:
    return Finding(
        'watchers', 'note', f'{missing.function}() cannot be watched on this kernel ({_why_not(missing)})'
    )


class Keeper(Protocol):
    """Where links outlive the process (sockaccel.kernel.adoption)."""

    def keep_watcher(self, name: str, link: int) -> None: ...

    def drop_watchers(self, names: Iterable[str]) -> None: ...


class Watchers:
    """The links of the watchers.

    programs: fds by name, of which those of watchers are used; links: those of an earlier process, by the names of
    their programs, which belong to this object from now on.
    """

    def __init__(self, programs: Mapping[str, int], links: Mapping[str, int], keeper: Keeper) -> None:
        self._programs = {name: programs[name] for name in WATCHERS if name in programs}
        self._links = dict(links)
        self._keeper = keeper

    def attach(self) -> None:
        """Attach every watcher that is not attached. What one that fails would see goes by TCP."""
        for name, program in self._programs.items():
            if name in self._links:
                continue
            try:
                self._links[name] = libbpf.attach_function(program, WATCHERS[name].at)
            except OSError as exc:
                log.warning(f'{WATCHERS[name].function}() cannot be watched ({exc.strerror}), ignoring')
                continue
            self._keeper.keep_watcher(name, self._links[name])

    def detach(self) -> None:
        """Detach them all. Again is no error."""
        self._keeper.drop_watchers(list(self._links))
        self.close()

    def close(self) -> None:
        """Close the fds: what the store keeps stays attached."""
        for fd in self._links.values():
            os.close(fd)
        self._links.clear()

    def __contains__(self, name: str) -> bool:
        """Whether a watcher is attached."""
        return name in self._links
