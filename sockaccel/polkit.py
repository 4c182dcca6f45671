# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may: polkit is asked for every change, with the caller as subject; without polkit only uid 0 may."""

from typing import Any

from sockaccel.errors import AskFailed, NotPermitted

_NAME = 'org.freedesktop.PolicyKit1'
_PATH = '/org/freedesktop/PolicyKit1/Authority'
# A dialogue stays open while a person looks for a password.
_TIMEOUT_S = 300.0
_ALLOW_USER_INTERACTION = 1

# Every D-Bus method, with the action that it needs; None is for reading.
ACTIONS: dict[str, str | None] = {
    'Enable': 'org.sockaccel1.enable',
    'EnableWithOptions': 'org.sockaccel1.enable',
    'Disable': 'org.sockaccel1.disable',
    'Stats': None,
    'TargetStats': None,
    'ListTargets': None,
    'ListConnections': None,
    'Findings': None,
    'Reasons': None,
    'Subscribe': None,
    'Unsubscribe': None,
}


async def authorise(bus: Any, sender: str, member: str, interactive: bool) -> None:  # noqa: FBT001
    """Return if a caller may call a member. Raises NotPermitted.

    bus: a sockaccel.bus.Bus; sender: a unique bus name; interactive: the caller allows a dialogue.
    """
    action = ACTIONS[member]
    if action is None or await bus.user_of(sender) == 0:
        return
    if not await bus.has_owner(_NAME):
        raise NotPermitted(f'{member} needs root, because no polkit is there to ask whether this user may')
    subject = ['system-bus-name', {'name': bus.variant('s', sender)}]
    flags = _ALLOW_USER_INTERACTION if interactive else 0
    try:
        body = await bus.ask(
            _NAME, _PATH, f'{_NAME}.Authority', 'CheckAuthorization', '(sa{sv})sa{ss}us',
            [subject, action, {}, flags, ''], timeout=_TIMEOUT_S,
        )  # fmt: skip
    except AskFailed as exc:
        raise NotPermitted(f'polkit could not say whether this user may call {member} ({exc})') from exc
    if not body[0][0]:
        raise NotPermitted(f'polkit does not let this user call {member} (action {action})')
