# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the fds of kernel objects outlive the process, whoever keeps them."""

from collections.abc import Iterable
from typing import Protocol


class Store(Protocol):
    """Names are of letters, digits, `_` and `-`: bpffs reserves the dot, systemd the colon."""

    def take(self) -> dict[str, int]:
        """What was kept by an earlier process, under its name; the fds are the caller's. Once."""

    def keep(self, name: str, fd: int) -> None:
        """Let an object outlive the process. What cannot be kept is logged: it ends with the process then."""

    def drop(self, names: Iterable[str]) -> None:
        """Keep no longer; a name that is not there is no harm."""

    def close(self) -> None: ...
