# SPDX-License-Identifier: GPL-2.0-or-later
"""Cgroups: what a target covers, and where they are mounted."""

from dataclasses import dataclass
from pathlib import Path

from sockaccel.errors import UnsupportedKernel


@dataclass(frozen=True)
class Cgroup:
    """A cgroup that exists. path: below the mount point, `/` for the root. id: as bpf_get_current_cgroup_id()."""

    path: str
    id: int


@dataclass(frozen=True)
class Place:
    """Where a target is now.

    why: why it has no cgroup, '' if it has one. listeners: address and port of each that systemd opened for it.
    """

    cgroup: Cgroup | None
    why: str = ''
    listeners: frozenset[tuple[str, int]] = frozenset()


def cgroup2_mount() -> Path:
    """Where cgroup2 is mounted. Raises UnsupportedKernel."""
    # proc(5): fields up to " - ", then type, source and options.
    for line in Path('/proc/self/mountinfo').read_text().splitlines():
        before, _separator, after = line.partition(' - ')
        if after.startswith('cgroup2 '):
            _id, _parent, _device, root, mount, *_rest = before.split()
            # Another root: systemd shows a service its memory.pressure file by a mount of that file alone.
            if root != '/':
                continue
            return Path(mount.encode().decode('unicode_escape'))
    raise UnsupportedKernel(
        'no cgroup2 file system is mounted, without which sockaccel cannot tell whose connections to accelerate: '
        'mount it, or boot with systemd.unified_cgroup_hierarchy=1'
    )
