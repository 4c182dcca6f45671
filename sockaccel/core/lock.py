# SPDX-License-Identifier: GPL-2.0-or-later
"""Being the only daemon that works with a directory."""

import fcntl
from pathlib import Path

from sockaccel.errors import AlreadyRunning


def lock(directory: int, path: Path) -> None:
    """Be the only process that has this directory, as long as the fd is open. Raises AlreadyRunning."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise AlreadyRunning(f'another sockaccel works with "{path}": stop it first') from exc
