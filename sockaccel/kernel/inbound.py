# SPDX-License-Identifier: GPL-2.0-or-later
"""Where connections to targets are led, and to which listeners of proxies (bpf/inbound.c)."""

import errno
import ipaddress
import os
import struct
from collections.abc import Mapping

import structlog

from sockaccel.core.interception import Interception
from sockaccel.core.led import Owner
from sockaccel.core.limits import MAX_NETWORKS
from sockaccel.errors import KernelRefused
from sockaccel.kernel import libbpf, networks
from sockaccel.kernel.abi import DOOR, DOOR_PORT, ENTRANCE, INBOUND, INBOUND_KEY, LeadWalk, OwnerKind
from sockaccel.kernel.lead_programs import OF_NETWORK, WALK
from sockaccel.kernel.links import Links

log = structlog.stdlib.get_logger()

_U32 = struct.Struct('=I')
_ZERO = _U32.pack(0)
_LINK = 'link-network-'
_ATTACH_TYPE = next(iter(OF_NETWORK.values())).attach_type


class Inbound:
    """fds: of programs and maps, by name. links: those of networks are `link-network-` with the number."""

    def __init__(self, fds: Mapping[str, int], links: Links) -> None:
        self._fds = fds
        self._links = links
        self._told_full = False

    def set_slot(self, slot: int, interception: Interception | None, proxy: Owner | None) -> None:
        """Write which ports of a target are led, and to which of its proxy. None: no more."""
        pairs = interception.inbound if interception and proxy else ()
        wanted = {
            INBOUND_KEY.pack(slot, port): INBOUND.pack(to, 2 << number) for number, (port, to) in enumerate(pairs)
        }
        doors = [DOOR_PORT.pack(code(proxy), to) for _port, to in pairs] if proxy else []
        for key in doors:
            libbpf.map_update(self._fds['sa_door_ports'], key, _U32.pack(1))
        for key, value in wanted.items():
            libbpf.map_update(self._fds['sa_inbound'], key, value)
        # Without its entrance a connection reaches the target; without its port it would too, for a while longer.
        for key, ports in self._entrances(slot).items():
            if INBOUND_KEY.pack(slot, ports) not in wanted:
                libbpf.map_delete(self._fds['sa_entrances'], key)
        for key in libbpf.map_keys(self._fds['sa_inbound'], INBOUND_KEY.size):
            if INBOUND_KEY.unpack(key)[0] == slot and key not in wanted:
                libbpf.map_delete(self._fds['sa_inbound'], key)

    def keep_doors(self, wanted: set[tuple[Owner, int]]) -> None:
        """Take note of no other listeners of proxies from now on: these are all owners with their ports."""
        keys = {DOOR_PORT.pack(code(owner), port) for owner, port in wanted}
        for key in libbpf.map_keys(self._fds['sa_door_ports'], DOOR_PORT.size):
            if key not in keys:
                libbpf.map_delete(self._fds['sa_door_ports'], key)
        ports = {port for _owner, port in wanted}
        for name in ('sa_doors', 'sa_door_cookies'):
            for key in libbpf.map_keys(self._fds[name], DOOR.size):
                if DOOR.unpack(key)[1] not in ports:
                    libbpf.map_delete(self._fds[name], key)

    def enter(self, served: Mapping[tuple[str, int], int]) -> None:
        """Lead in every network namespace that can be opened, and find the listeners that are there.

        served: the slot of each target's listener that systemd has opened, by address and port. Raises
        KernelRefused.
        """
        self._leave_dead()
        opened = networks.open_all()
        try:
            for inode, fd in opened.items():
                self._attach(inode, fd)
        finally:
            for fd in opened.values():
                os.close(fd)
        here = self._numbers()
        for inode, number in here.items():
            libbpf.map_update(self._fds['sa_networks'], _U32.pack(inode), _U32.pack(number))
        self._walk(LeadWalk.DOORS)
        self._walk(LeadWalk.ENTRANCES)
        own = here.get(networks.OWN.stat().st_ino, 0)
        for (address, port), slot in served.items():
            key = ENTRANCE.pack(own, port, _packed(address))
            libbpf.map_update(self._fds['sa_entrances'], key, _U32.pack(slot))
        # Those of an earlier daemon see its maps until these have all that is needed.
        for number in here.values():
            self._links.renew(f'{_LINK}{number}', self._fds[_program(number)])

    def leave(self) -> None:
        """Lead in no network namespace any more."""
        for name in self._links.names(_LINK):
            self._links.drop(name)
        for name in ('sa_networks', 'sa_entrances', 'sa_past'):
            libbpf.map_clear(self._fds[name], libbpf.map_sizes(self._fds[name])[0])
        libbpf.map_update(self._fds['sa_past_count'], _ZERO, bytes(8))

    def _numbers(self) -> dict[int, int]:
        """The number of each network namespace that has one, by inode number."""
        found = {}
        for name in self._links.names(_LINK):
            fd = self._links.fd(name)
            assert fd is not None
            if inode := libbpf.link_network(fd):
                found[inode] = int(name.removeprefix(_LINK))
        return found

    def _attach(self, inode: int, fd: int) -> None:
        """Raises KernelRefused."""
        here = self._numbers()
        if inode in here:
            return
        free = sorted(set(range(1, MAX_NETWORKS + 1)) - set(here.values()))
        if not free:
            if not self._told_full:
                self._told_full = True
                log.warning(
                    f'Connections to targets are led in {MAX_NETWORKS} network namespaces, which is the limit: '
                    'others are left out, ignoring'
                )
            return
        try:
            link = libbpf.attach_network(self._fds[_program(free[0])], fd, _ATTACH_TYPE)
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return
            raise KernelRefused(
                f'cannot attach to the network namespace {inode} ({exc.strerror}), in which connections would be '
                'led: programs of others may fill it (64 are possible); see "bpftool net"'
            ) from exc
        self._links.put(f'{_LINK}{free[0]}', link)

    def _leave_dead(self) -> None:
        """Give back the numbers of network namespaces that are gone."""
        for name in self._links.names(_LINK):
            fd = self._links.fd(name)
            assert fd is not None
            if libbpf.link_network(fd):
                continue
            number = int(name.removeprefix(_LINK))
            for key in libbpf.map_keys(self._fds['sa_networks'], _U32.size):
                if libbpf.map_lookup(self._fds['sa_networks'], key, _U32.size) == _U32.pack(number):
                    libbpf.map_delete(self._fds['sa_networks'], key)
            for key in libbpf.map_keys(self._fds['sa_entrances'], ENTRANCE.size):
                if ENTRANCE.unpack(key)[0] == number:
                    libbpf.map_delete(self._fds['sa_entrances'], key)
            self._links.drop(name)

    def _entrances(self, slot: int) -> dict[bytes, int]:
        """The port of each entrance that a slot has, by its key."""
        found = {}
        for key in libbpf.map_keys(self._fds['sa_entrances'], ENTRANCE.size):
            if libbpf.map_lookup(self._fds['sa_entrances'], key, _U32.size) == _U32.pack(slot):
                found[key] = ENTRANCE.unpack(key)[1]
        return found

    def _walk(self, what: LeadWalk) -> None:
        libbpf.map_update(self._fds['sa_lead_walk'], _ZERO, _U32.pack(what))
        for _nothing in libbpf.iterate(self._fds[WALK]):
            pass


def code(owner: Owner) -> int:
    """As the programs have it (enum owner_kind)."""
    return (OwnerKind.PROXY if owner.is_proxy else OwnerKind.TARGET) << 16 | owner.number


def _program(number: int) -> str:
    return list(OF_NETWORK)[number - 1]


def _packed(address: str) -> bytes:
    """As in struct entrance."""
    parsed = ipaddress.ip_address(address)
    if parsed.is_unspecified:
        return bytes(16)
    return parsed.packed if parsed.version == 6 else bytes(10) + b'\xff\xff' + parsed.packed
