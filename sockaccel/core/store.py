# SPDX-License-Identifier: GPL-2.0-or-later
"""Where fds of kernel objects outlive the process: in systemd, or in the BPF file system."""

from collections.abc import Iterable
from typing import Protocol


class Store(Protocol):
    """Names have letters, digits, `_` and `-` alone: bpffs reserves the dot, systemd the colon."""

    @property
    def keeps(self) -> bool:
        """Whether objects outlive the process, as far as is known."""

    def take(self) -> dict[str, int]:
        """The fds that an earlier process kept, by name. They are the caller's, so this can be called once."""

    def keep(self, name: str, fd: int) -> None:
        """Let an object outlive the process. A failure is logged; the object ends with the process then."""

    def drop(self, names: Iterable[str]) -> None:
        """Keep these no longer. An unknown name is no error."""

    def close(self) -> None: ...
