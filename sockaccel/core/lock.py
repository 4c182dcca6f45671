# SPDX-License-Identifier: GPL-2.0-or-later
"""A lock on a directory that only one daemon may use."""

import fcntl
from pathlib import Path

from sockaccel.errors import AlreadyRunning


def lock(directory: int, path: Path) -> None:
    """Lock a directory as long as this fd of it is open. path: for the message. Raises AlreadyRunning."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise AlreadyRunning(f'another sockaccel works with "{path}": stop it first') from exc
