# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may change something: polkit is asked, with the caller as subject; without polkit only uid 0 may."""

import asyncio
import itertools
from collections import Counter

from sockaccel.core.target import Target
from sockaccel.dbus.connection import Connection
from sockaccel.dbus.message import Variant
from sockaccel.dbus.serving import Request
from sockaccel.errors import AskFailed, LimitExceeded, NotPermitted

# Each has an <action> in packaging/polkit/org.sockaccel1.policy.
ENABLE = 'org.sockaccel1.enable'
DISABLE = 'org.sockaccel1.disable'
RESET_COUNTERS = 'org.sockaccel1.reset-counters'
RELOAD = 'org.sockaccel1.reload'
SET_LOG_LEVEL = 'org.sockaccel1.set-log-level'

_NAME = 'org.freedesktop.PolicyKit1'
_PATH = '/org/freedesktop/PolicyKit1/Authority'
_INTERFACE = f'{_NAME}.Authority'
# A dialogue stays open while a person looks for a password.
_TIMEOUT_S = 300.0
_ALLOW_USER_INTERACTION = 1
# Questions to polkit that one user may leave open; calls of other users go on meanwhile.
_MAXIMUM_OPEN = 64
# Of a name in a dialogue. A target can be as long as a path.
_MAXIMUM_SHOWN = 256


class Authority:
    """Asks polkit, and counts the answers that each user waits for."""

    def __init__(self) -> None:
        self._open: Counter[int] = Counter()
        self._numbers = itertools.count(1)

    async def authorise(self, connection: Connection, request: Request) -> None:
        """Return if the caller may. Raises NotPermitted, LimitExceeded, InvalidTarget."""
        user = await connection.user_of(request.sender)
        if user == 0:
            return
        details = _details(request)
        if self._open[user] >= _MAXIMUM_OPEN:
            raise LimitExceeded(f'uid {user} waits for {_MAXIMUM_OPEN} answers of polkit: answer those first')
        self._open[user] += 1
        try:
            await self._ask(connection, request, details)
        finally:
            self._open[user] -= 1
            self._open += Counter()

    async def _ask(self, connection: Connection, request: Request, details: dict[str, str]) -> None:
        member = request.member
        if not await connection.available(_NAME):
            raise NotPermitted(f'{member} needs root, because no polkit is there to ask whether this user may')
        cancellation = f'sockaccel-{next(self._numbers)}'
        flags = _ALLOW_USER_INTERACTION if request.interactive else 0
        subject = ['system-bus-name', {'name': Variant('s', request.sender)}]
        try:
            body = await connection.ask(
                _NAME, _PATH, _INTERFACE, 'CheckAuthorization', '(sa{sv})sa{ss}us',
                [subject, request.action, details, flags, cancellation],
                timeout=_TIMEOUT_S,
            )  # fmt: skip
        except asyncio.CancelledError:
            # The caller has left, or the daemon is about to: nobody needs the dialogue any more.
            connection.tell(_NAME, _PATH, _INTERFACE, 'CancelCheckAuthorization', 's', [cancellation])
            raise
        except AskFailed as exc:
            connection.tell(_NAME, _PATH, _INTERFACE, 'CancelCheckAuthorization', 's', [cancellation])
            raise NotPermitted(f'polkit could not say whether this user may call {member} ({exc})') from exc
        authorised, challenge, _details = body[0]
        if not authorised:
            missing = 'no agent is there to ask for it' if request.interactive else 'the call allows no dialogue'
            hint = f'; a password would allow it, but {missing}' if challenge else ''
            raise NotPermitted(f'polkit does not let this user call {member} (action {request.action}){hint}')


def _details(request: Request) -> dict[str, str]:
    """What the messages of the actions have as $(target). Raises InvalidTarget.

    A caller must not put words of its own into the question that somebody answers with a password.
    """
    if request.action not in (ENABLE, DISABLE):
        return {}
    name = Target.parse(request.subject).name
    return {'target': name if len(name) <= _MAXIMUM_SHOWN else f'{name[:_MAXIMUM_SHOWN]}…'}
