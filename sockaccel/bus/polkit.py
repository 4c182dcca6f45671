# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may change something, and see whose connections are: polkit is asked, with the caller as subject.

Without polkit only uid 0 may.
"""

import asyncio
import itertools

from sockaccel.core.target import Target
from sockaccel.dbus import limits
from sockaccel.dbus.connection import Connection
from sockaccel.dbus.message import Message, Variant
from sockaccel.dbus.serving import Request
from sockaccel.errors import AskFailed, NotPermitted

# Each has an <action> in packaging/polkit/org.sockaccel1.policy.
ENABLE = 'org.sockaccel1.enable'
DISABLE = 'org.sockaccel1.disable'
RESET_COUNTERS = 'org.sockaccel1.reset-counters'
RELOAD = 'org.sockaccel1.reload'
FORGET_PROGRAM = 'org.sockaccel1.forget-program'
SET_LOG_LEVEL = 'org.sockaccel1.set-log-level'
INSPECT = 'org.sockaccel1.inspect'
INTERCEPT = 'org.sockaccel1.intercept'

_NAME = 'org.freedesktop.PolicyKit1'
_PATH = '/org/freedesktop/PolicyKit1/Authority'
_INTERFACE = f'{_NAME}.Authority'
# A dialogue stays open while a person looks for a password.
_TIMEOUT_S = 300.0
_ALLOW_USER_INTERACTION = 1
# Of a name in a dialogue. A target can be as long as a path.
_MAXIMUM_SHOWN = 256
# Nobody waits long to see something; and how long an answer about that is kept, so that a poll is no flood.
_INSPECT_TIMEOUT_S, _KEPT_FOR_S = 5.0, 5.0


class Authority:
    """Asks polkit, and counts the answers that each user waits for."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._questions = limits.Limit(
            'open questions to polkit', 'answer those first', each=64, privileged=0, together=1024
        )
        self._numbers = itertools.count(1)
        # By unique name, whether a client may inspect, and until when that is believed (CLOCK_MONOTONIC).
        self._inspectors: dict[str, tuple[asyncio.Future[bool], float]] = {}

    async def watch(self) -> None:
        """Believe no answer any more once polkit says that something changed. Raises AskFailed."""
        await self._connection.hear(_NAME, self._changed)
        await self._connection.match(f"type='signal',sender='{_NAME}',interface='{_INTERFACE}',member='Changed'")

    def _changed(self, message: Message) -> None:
        if message.member == 'Changed':
            self._inspectors.clear()

    def forget(self, sender: str) -> None:
        """A client has left the bus, or polkit has."""
        self._inspectors.pop(sender, None)
        if sender == _NAME:
            self._inspectors.clear()

    async def authorise(self, connection: Connection, request: Request) -> None:
        """Return if the caller may. Raises NotPermitted, LimitExceeded, InvalidTarget."""
        user = await connection.user_of(request.sender)
        if user == limits.PRIVILEGED:
            return
        details = _details(request)
        self._questions.take(user)
        try:
            await self._ask(connection, request, details)
        finally:
            self._questions.give_back(user)

    async def may_inspect(self, sender: str) -> bool:
        """Whether a client may know whose connections are. Never asks for a password.

        Raises NotPermitted if it has left the bus, and LimitExceeded.
        """
        user = await self._connection.user_of(sender)
        if user == limits.PRIVILEGED:
            return True
        loop = asyncio.get_running_loop()
        answer, until = self._inspectors.get(sender, (None, 0.0))
        if answer is None or loop.time() > until:
            self._questions.take(user)
            answer = asyncio.ensure_future(self._ask_inspect(sender))
            answer.add_done_callback(lambda _answer: self._questions.give_back(user))
            self._inspectors[sender] = answer, loop.time() + _INSPECT_TIMEOUT_S + _KEPT_FOR_S
        return await asyncio.shield(answer)

    async def _ask_inspect(self, sender: str) -> bool:
        request = Request(sender, 'Inspect', INSPECT, interactive=False, subject='')
        try:
            async with asyncio.timeout(_INSPECT_TIMEOUT_S):
                await self._ask(self._connection, request, {})
        except (NotPermitted, AskFailed, TimeoutError):
            return False
        return True

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
    if request.action not in (ENABLE, DISABLE, INTERCEPT):
        return {}
    name = Target.parse(request.subject).name
    return {'target': name if len(name) <= _MAXIMUM_SHOWN else f'{name[:_MAXIMUM_SHOWN]}…'}
