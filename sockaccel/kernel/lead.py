# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs that lead connections to proxies (bpf/lead.c), once they are loaded: their maps and links."""

import os
import shlex
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import structlog

from sockaccel.core.interception import Interception, WhenDown
from sockaccel.core.led import Owner, Wanted
from sockaccel.core.store import Store
from sockaccel.errors import KernelRefused
from sockaccel.kernel import lead_programs, libbpf
from sockaccel.kernel.abi import (
    FLOW,
    INTERCEPTION,
    LEAD_COUNTERS,
    LEAD_EVENT,
    LED,
    PLACE,
    RULE,
    RULES,
    InterceptionFlag,
    LeadCounter,
    LeadEventRecord,
    LeadHappening,
)
from sockaccel.kernel.inbound import Inbound, code
from sockaccel.kernel.lead_programs import ASKED, LIST, MAPS, OF_ENTRANCES, OF_ROOT, PROGRAMS, Waiting
from sockaccel.kernel.links import Links
from sockaccel.kernel.networks import Mounts

log = structlog.stdlib.get_logger()

_U32, _U64 = struct.Struct('=I'), struct.Struct('=Q')
_ZERO = _U32.pack(0)
# Names in the store.
_LINK, _PROXY_LINK = 'link-', 'link-proxy-'
# Connections are led no more when these are gone; what was led needs the others a little longer.
_LEADING = ('sockaccel_lead4', 'sockaccel_lead6')


class Source:
    """Where the kernel side of interception comes from: an earlier daemon, or a process that waits to load it.

    The constructor must run while the daemon has its capabilities. root: opens the directory of the cgroup that
    sockaccel is confined to; directory: finds that of any cgroup. Raises OSError.
    """

    def __init__(self, store: Store, root: Callable[[], int], directory: Callable[[str], Path]) -> None:
        self._store = store
        self._root = root
        self._directory = directory
        self._digests = lead_programs.digests()
        self._held = store.take()
        self._maps = self._pick(self._digests.layout, MAPS)
        self._programs = self._pick(self._digests.code, PROGRAMS)
        self._waiting: Waiting | None = None
        if not self._maps or not self._programs:
            self._waiting = Waiting(self._maps)

    @property
    def holds_links(self) -> bool:
        """Whether an earlier daemon has left programs that lead."""
        return any(name.startswith(_LINK) for name in self._held)

    async def obtain(self) -> 'Lead':
        """Adopt or load. Raises SockaccelError; the store then still has what it had."""
        loaded = await self._waiting.load() if self._waiting else {}
        self._waiting = None
        fds = {**self._programs, **self._maps, **loaded}
        links = {name: fd for name, fd in self._held.items() if name.startswith(_LINK)}
        stale = {name: fd for name, fd in self._held.items() if name not in links and fd not in fds.values()}
        for name, fd in loaded.items():
            self._store.keep(self._name(name), fd)
        return Lead(fds, links, stale, self._store, self._name, self._root, self._directory)

    def close(self) -> None:
        if self._waiting:
            self._waiting.close()

    def _pick(self, digest: str, names: Mapping[str, object] | tuple[str, ...]) -> dict[str, int]:
        """All of these that the store has under a digest; nothing if one is missing."""
        found = {name: self._held[f'{digest}-{name}'] for name in names if f'{digest}-{name}' in self._held}
        return found if len(found) == len(names) else {}

    def _name(self, name: str) -> str:
        return f'{self._digests.code if name in PROGRAMS else self._digests.layout}-{name}'


class Lead:
    """Implements sockaccel.core.led.LeadKernel.

    links: of an earlier daemon, by their names in the store. stale: its objects that nobody needs once `attach`
    has run.
    """

    def __init__(
        self,
        fds: dict[str, int],
        links: dict[str, int],
        stale: dict[str, int],
        store: Store,
        name: Callable[[str], str],
        root: Callable[[], int],
        directory: Callable[[str], Path],
    ) -> None:
        self._fds = fds
        self._links = Links(store, links)
        self._inbound = Inbound(fds, self._links)
        self._stale = stale
        self._store = store
        self._name = name
        self._root = root
        self._directory = directory
        self._cpus = libbpf.possible_cpus()
        self._ring: libbpf.RingBuffer | None = None
        self._mounts: Mounts | None = None
        self._served: Mapping[tuple[str, int], int] = {}

    def listen(
        self,
        happened: Callable[[int, bool, int], None],
        elsewhere: Callable[[int, int], None],
        drained: Callable[[], None],
    ) -> int:
        """Let `consume` tell what happened.

        happened: the proxy of a slot is down, or not any more, at a port. elsewhere: the target of a slot listens
        in a network namespace in which nothing leads, given by its inode number. drained: nothing waits any more.
        Returns the fd that is readable when there is something to tell.
        """

        def receive(data: bytes) -> None:
            event = LeadEventRecord._make(LEAD_EVENT.unpack(data[: LEAD_EVENT.size]))
            if event.happening == LeadHappening.DRAINED:
                drained()
            elif event.happening == LeadHappening.ELSEWHERE:
                elsewhere(event.slot, event.about)
            else:
                happened(event.slot, event.happening == LeadHappening.DOWN, event.about)

        self._ring = libbpf.RingBuffer(self._fds['sa_lead_events'], receive)
        return self._ring.fd

    def consume(self) -> None:
        if self._ring:
            self._ring.consume()

    def set_slot(self, slot: int, interception: Interception | None, proxy: Owner | None) -> None:
        """Write what a slot does. None: it is off."""
        key = _U32.pack(slot)
        self._inbound.set_slot(slot, interception, proxy)
        if interception is None or proxy is None:
            libbpf.map_update(self._fds['sa_leads'], key, INTERCEPTION.pack(0, 0, 0, 0))
            libbpf.map_update(self._fds['sa_lead_down'], key, _ZERO)
            self._count_from_zero(slot)
            return
        packed = b''.join(
            RULE.pack(rule.kind, 1, rule.first, rule.last, rule.address, rule.mask) for rule in interception.rules
        )
        libbpf.map_update(self._fds['sa_lead_rules'], key, packed.ljust(RULES.size, b'\0'))
        flags = InterceptionFlag.ON
        if interception.when_down is WhenDown.BYPASS:
            flags |= InterceptionFlag.BYPASS
        libbpf.map_update(
            self._fds['sa_leads'], key, INTERCEPTION.pack(flags, code(proxy), interception.outbound, 0)
        )

    def put(self, wanted: Wanted) -> None:
        """First what is added, then what is taken away, so that no cgroup is nobody's in between."""
        for cgroup_id, path in wanted.proxies.items():
            self._answer(cgroup_id, path)
        owners = {_U64.pack(cgroup_id): code(owner) for cgroup_id, owner in wanted.owners.items()}
        spots = {PLACE.pack(parent, name.encode()): code(owner) for (parent, name), owner in wanted.spots.items()}
        parents = {_U64.pack(parent): 1 for parent, _name in wanted.spots}
        tables = (
            ('sa_owners', owners, _U64.size),
            ('sa_parents', parents, _U64.size),
            ('sa_places', spots, PLACE.size),
        )
        for name, entries, _size in tables:
            for key, value in entries.items():
                libbpf.map_update(self._fds[name], key, _U32.pack(value))
        for name, entries, size in reversed(tables):
            for key in libbpf.map_keys(self._fds[name], size):
                if key not in entries:
                    libbpf.map_delete(self._fds[name], key)
        self._inbound.keep_doors(wanted.doors)
        self._served = wanted.served

    def attach(self, *, inbound: bool) -> None:
        """To the root: what a led connection needs comes before what leads it. Raises KernelRefused, OSError."""
        libbpf.map_update(self._fds['sa_lead_drains'], _ZERO, _ZERO)
        root = self._root()
        try:
            for program in (*OF_ROOT, *(OF_ENTRANCES if inbound else ())):
                self._link(_LINK + program, program, root)
        finally:
            os.close(root)
        if inbound:
            self._enter()
        for name, fd in self._stale.items():
            self._store.drop([name])
            os.close(fd)
        self._stale = {}

    def settle(self, proxies: Mapping[int, str], *, leads: bool, inbound: bool) -> bool:
        """See LeadKernel."""
        if not leads:
            for program in _LEADING:
                self._links.drop(_LINK + program)
        if not inbound:
            self._leave()
        gone = [name for name in self._links.names(_PROXY_LINK) if int(name[len(_PROXY_LINK) :]) not in proxies]
        if leads and not gone:
            return True
        libbpf.map_update(self._fds['sa_lead_drains'], _ZERO, _U32.pack(1))
        # A connect() that has just been led has its entry afterwards.
        self._wait_for_programs()
        if self._waiting():
            return False
        libbpf.map_update(self._fds['sa_lead_drains'], _ZERO, _ZERO)
        for name in gone if leads else self._links.names():
            self._links.drop(name)
        return True

    def release(self) -> None:
        """Detach everything at once, what leads first, and keep nothing for the next daemon."""
        for program in _LEADING:
            self._links.drop(_LINK + program)
        self._leave()
        self._wait_for_programs()
        for name in self._links.names():
            self._links.drop(name)
        self._store.drop([self._name(name) for name in self._fds] + list(self._stale))

    def close(self) -> None:
        """Close all fds. The store keeps what it has for the next process."""
        if self._ring:
            self._ring.close()
            self._ring = None
        if self._mounts:
            self._mounts.close()
            self._mounts = None
        self._links.close()
        for fd in (*self._fds.values(), *self._stale.values()):
            os.close(fd)
        self._fds, self._stale = {}, {}

    def counters(self, slot: int) -> dict[str, int]:
        """By the names of bpf/abi/lead.h, summed over the CPUs."""
        size = 8 * LEAD_COUNTERS
        value = libbpf.map_lookup(self._fds['sa_lead_counts'], _U32.pack(slot), size * self._cpus)
        assert value is not None
        numbers = struct.unpack(f'={LEAD_COUNTERS * self._cpus}Q', value)
        return {each.name.lower(): sum(numbers[each::LEAD_COUNTERS]) for each in LeadCounter}

    def origins(self) -> Iterator[bytes]:
        """See sockaccel.core.origins. Called in threads."""
        rest = b''
        for chunk in libbpf.iterate(self._fds[LIST], self._fds['sa_origins']):
            rest += chunk
            whole = len(rest) // LED.size * LED.size
            if whole:
                yield rest[:whole]
            rest = rest[whole:]

    def is_down(self, slot: int) -> bool:
        value = libbpf.map_lookup(self._fds['sa_lead_down'], _U32.pack(slot), _U32.size)
        return value is not None and value != _ZERO

    def _enter(self) -> None:
        if self._mounts is None:
            self._mounts = Mounts(self._mounted)
        self._inbound.enter(self._served)
        # Who asked for this wants to know of what could not be entered.
        if self._ring:
            self._ring.consume()

    def _leave(self) -> None:
        for program in OF_ENTRANCES:
            self._links.drop(_LINK + program)
        self._inbound.leave()
        if self._mounts:
            self._mounts.close()
            self._mounts = None

    def _mounted(self) -> None:
        try:
            self._inbound.enter(self._served)
        except (KernelRefused, OSError) as exc:
            log.error(f'New network namespaces cannot be taken into account, ignoring: {exc}')

    def _waiting(self) -> bool:
        """Whether a led connection has not been accepted. Entries that are counted wrongly are counted anew."""
        left = len(libbpf.map_keys(self._fds['sa_led'], FLOW.size))
        libbpf.map_update(self._fds['sa_led_count'], _ZERO, _U64.pack(left))
        return left > 0

    def _count_from_zero(self, slot: int) -> None:
        size = 8 * LEAD_COUNTERS * self._cpus
        libbpf.map_update(self._fds['sa_lead_counts'], _U32.pack(slot), bytes(size))

    def _answer(self, cgroup_id: int, path: str) -> None:
        """Answer getsockopt() of a proxy's sockets. One whose cgroup is gone meanwhile needs no answer."""
        try:
            cgroup = os.open(self._directory(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            if os.fstat(cgroup).st_ino == cgroup_id:
                self._link(f'{_PROXY_LINK}{cgroup_id}', ASKED, cgroup)
        finally:
            os.close(cgroup)

    def _link(self, name: str, program: str, cgroup: int) -> None:
        """Let a program run at a cgroup, an fd of its directory; there is no moment without one. KernelRefused."""
        link = self._links.fd(name)
        if link is not None and libbpf.link_cgroup(link) == os.fstat(cgroup).st_ino:
            self._links.renew(name, self._fds[program])
            return
        try:
            new = libbpf.attach_cgroup(self._fds[program], cgroup, PROGRAMS[program].attach_type)
        except OSError as exc:
            path = os.readlink(f'/proc/self/fd/{cgroup}')
            raise KernelRefused(
                f'cannot attach "{program}" to cgroup "{path}" ({exc.strerror}): a program of somebody else may '
                f'be attached there or above without "multi"; see "bpftool cgroup show {shlex.quote(path)}"'
            ) from exc
        self._links.put(name, new)

    def _wait_for_programs(self) -> None:
        """Return when every BPF program that was running has ended (sa_lead_grace in bpf/lib/lead_maps.c)."""
        libbpf.wait_for_programs(self._fds['sa_lead_grace'], self._fds['sa_lead_down'])
