# SPDX-License-Identifier: GPL-2.0-or-later
"""Gives up, for good, what a process may do beyond others (capabilities(7))."""

import ctypes
import os
import struct
import time
from pathlib import Path

from sockaccel.errors import SystemRefused

# include/uapi/linux/capability.h: struct __user_cap_header_struct, and struct __user_cap_data_struct twice, for
# the lower and the upper 32 capabilities.
_VERSION_3 = 0x20080522
_HEADER, _DATA = struct.Struct('=Ii'), struct.Struct('=6I')
_DAC_OVERRIDE = 1 << 1
# include/uapi/linux/prctl.h
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def drop(patience_s: float = 5.0) -> int:
    """Keep no capability, and regain none by starting a program. Raises SystemRefused.

    Each thread has capabilities of its own, and hands them to those that it starts: where there are others, wait
    for them to end, up to some seconds. Returns how many are still there, which have what they had.

    uid 0 keeps CAP_DAC_OVERRIDE. It can have directories that belong to another user, such as the state that the
    unit has left, and could not write there without.
    """
    until = time.monotonic() + patience_s
    while (others := _other_threads()) and time.monotonic() < until:
        time.sleep(0.001)
    header = _HEADER.pack(_VERSION_3, 0)
    data = ctypes.create_string_buffer(_DATA.size)
    _call('capget', header, data)
    _effective, permitted, *_rest = _DATA.unpack(data.raw)
    kept = permitted & _DAC_OVERRIDE if os.geteuid() == 0 else 0
    # Effective, permitted, inheritable, and the upper ones. What cannot be inherited is not ambient either.
    _call('capset', header, _DATA.pack(kept, kept, 0, 0, 0, 0))
    _call('prctl', _PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    return others


def _other_threads() -> int:
    return len(list(Path('/proc/self/task').iterdir())) - 1


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments):
        reason = os.strerror(ctypes.get_errno())
        raise SystemRefused(
            f'cannot give up capabilities ({name}: {reason}): let the daemon call {name}(2), which '
            'SystemCallFilter= of its unit, or the rules of its container, forbid'
        )
