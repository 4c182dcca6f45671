# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks systemd where a unit's cgroup is (org.freedesktop.systemd1(5))."""

from typing import Any

from sockaccel.errors import AskFailed, InvalidTarget
from sockaccel.target import quote

_NAME = 'org.freedesktop.systemd1'
_INTERFACES = {
    '.service': 'Service', '.slice': 'Slice', '.scope': 'Scope', '.socket': 'Socket', '.mount': 'Mount',
    '.swap': 'Swap',
}  # fmt: skip


class SystemdUnits:
    """sockaccel.cgroups.Units by way of the system bus. bus: a sockaccel.bus.Bus."""

    def __init__(self, bus: Any) -> None:
        self._bus = bus

    async def control_group(self, unit: str) -> str | None:
        """The cgroup path of a unit, '' while it does not run, None without systemd. Raises InvalidTarget."""
        if not await self._bus.has_owner(_NAME):
            return None
        try:
            (path,) = await self._bus.ask(
                _NAME, '/org/freedesktop/systemd1', f'{_NAME}.Manager', 'LoadUnit', 's', [unit]
            )
            state = await self._property(path, 'Unit', 'LoadState')
            if state not in ('not-found', 'bad-setting', 'error'):
                return str(await self._property(path, _INTERFACES[unit[unit.rindex('.') :]], 'ControlGroup'))
        except AskFailed as exc:
            raise InvalidTarget(f'systemd does not know unit {quote(unit)} ({exc})') from exc
        raise InvalidTarget(f'unit {quote(unit)} does not exist (systemd says "{state}")')

    async def _property(self, path: str, interface: str, name: str) -> Any:
        body = await self._bus.ask(
            _NAME, path, 'org.freedesktop.DBus.Properties', 'Get', 'ss', [f'{_NAME}.{interface}', name]
        )
        return body[0].value
