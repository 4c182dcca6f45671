# SPDX-License-Identifier: GPL-2.0-or-later
"""Which executable a path names, in the numbers by which the kernel's own structures know it."""

import os
import re
import stat
from pathlib import Path

from sockaccel.core.programs import Executable

_FDINFO = re.compile(r'^(mnt_id|ino):\s+(\d+)$', re.MULTILINE)


def find(path: str) -> Executable | None:
    """None where there is no regular file, or none that this process can look at.

    Not by stat(2), which on btrfs and overlayfs tells another device number than that of the file system:
    /proc/self/fdinfo has inode->i_ino and the mount, /proc/self/mountinfo the s_dev of each mount (proc(5)).
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        numbers = dict(_FDINFO.findall(Path(f'/proc/self/fdinfo/{fd}').read_text()))
    finally:
        os.close(fd)
    device = _device(numbers.get('mnt_id', ''))
    if device is None or 'ino' not in numbers:
        return None
    return Executable(device, int(numbers['ino']))


def _device(mount: str) -> int | None:
    """s_dev of the file system that a mount shows, as the kernel packs it (MKDEV() in linux/kdev_t.h)."""
    for line in Path('/proc/self/mountinfo').read_text().splitlines():
        number, _parent, device, _rest = line.split(' ', 3)
        if number == mount:
            major, minor = map(int, device.split(':'))
            return major << 20 | minor
    return None
