# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may: polkit is asked for every change, with the caller as subject; without polkit only uid 0 may."""

import asyncio
import itertools
from collections import Counter
from typing import Any

from sockaccel.errors import AskFailed, LimitExceeded, NotPermitted

_NAME = 'org.freedesktop.PolicyKit1'
_PATH = '/org/freedesktop/PolicyKit1/Authority'
_INTERFACE = f'{_NAME}.Authority'
# A dialogue stays open while a person looks for a password.
_TIMEOUT_S = 300.0
_ALLOW_USER_INTERACTION = 1
# Questions to polkit that a user may leave open; everybody else's calls go on meanwhile.
_MAXIMUM_OPEN = 64

# Every D-Bus method, and every property that can be set, with the action that it needs; None is for reading.
ACTIONS: dict[str, str | None] = {
    'Enable': 'org.sockaccel1.enable',
    'EnableWithOptions': 'org.sockaccel1.enable',
    'Disable': 'org.sockaccel1.disable',
    'DisableWithOptions': 'org.sockaccel1.disable',
    'ResetCounters': 'org.sockaccel1.reset-counters',
    'Reload': 'org.sockaccel1.reload',
    'LogLevel': 'org.sockaccel1.set-log-level',
    'LogTarget': 'org.sockaccel1.set-log-level',
    'Stats': None,
    'TargetStats': None,
    'StatsSinceReset': None,
    'ListTargets': None,
    'ListConnections': None,
    'ListEnds': None,
    'Findings': None,
    'Reasons': None,
    'Configuration': None,
    'Subscribe': None,
    'Unsubscribe': None,
}


class Authority:
    """Asks polkit, and remembers how many answers each user waits for."""

    def __init__(self) -> None:
        self._open: Counter[int] = Counter()
        self._numbers = itertools.count(1)

    async def authorise(self, bus: Any, sender: str, member: str, interactive: bool, subject: str) -> None:  # noqa: FBT001
        """Return if a caller may call a member. Raises NotPermitted, LimitExceeded.

        bus: a sockaccel.bus.server.Bus; sender: a unique bus name; interactive: the caller allows a dialogue;
        subject: what is to be changed, shown in the dialogue.
        """
        action = ACTIONS[member]
        if action is None:
            return
        user = await bus.user_of(sender)
        if user == 0:
            return
        if self._open[user] >= _MAXIMUM_OPEN:
            raise LimitExceeded(f'uid {user} waits for {_MAXIMUM_OPEN} answers of polkit: answer those first')
        self._open[user] += 1
        try:
            await self._ask(bus, sender, member, action, subject, interactive=interactive)
        finally:
            self._open[user] -= 1
            self._open += Counter()

    async def _ask(
        self, bus: Any, sender: str, member: str, action: str, subject: str, *, interactive: bool
    ) -> None:
        if not await bus.available(_NAME):
            raise NotPermitted(f'{member} needs root, because no polkit is there to ask whether this user may')
        cancellation = f'sockaccel-{next(self._numbers)}'
        flags = _ALLOW_USER_INTERACTION if interactive else 0
        # What the messages of the actions have as $(target).
        details = {'target': subject[:256]} if subject else {}
        try:
            body = await bus.ask(
                _NAME, _PATH, _INTERFACE, 'CheckAuthorization', '(sa{sv})sa{ss}us',
                [['system-bus-name', {'name': bus.variant('s', sender)}], action, details, flags, cancellation],
                timeout=_TIMEOUT_S,
            )  # fmt: skip
        except asyncio.CancelledError:
            # The caller has left, or we are about to: the dialogue should not stay.
            bus.tell(_NAME, _PATH, _INTERFACE, 'CancelCheckAuthorization', 's', [cancellation])
            raise
        except AskFailed as exc:
            bus.tell(_NAME, _PATH, _INTERFACE, 'CancelCheckAuthorization', 's', [cancellation])
            raise NotPermitted(f'polkit could not say whether this user may call {member} ({exc})') from exc
        authorised, challenge, _details = body[0]
        if not authorised:
            missing = 'there is no agent to ask for it' if interactive else 'the call does not allow to ask for it'
            hint = f'; it would with a password, but {missing}' if challenge else ''
            raise NotPermitted(f'polkit does not let this user call {member} (action {action}){hint}')
