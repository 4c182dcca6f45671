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
_NUMBERS = {'CAP_DAC_OVERRIDE': 1, 'CAP_NET_ADMIN': 12, 'CAP_SYS_ADMIN': 21, 'CAP_PERFMON': 38, 'CAP_BPF': 39}
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
    kept = _effective() & _bit('CAP_DAC_OVERRIDE') if os.geteuid() == 0 else 0
    # Effective, permitted, inheritable, and the upper ones. What cannot be inherited is not ambient either.
    _call('capset', _HEADER.pack(_VERSION_3, 0), _DATA.pack(kept, kept, 0, 0, 0, 0))
    _call('prctl', _PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    return others


def missing(*names: str) -> list[str]:
    """Which of some capabilities this thread has not; with CAP_SYS_ADMIN it needs none of those for BPF."""
    found = _effective()
    bpf = ('CAP_BPF', 'CAP_PERFMON') if found & _bit('CAP_SYS_ADMIN') else ()
    return [name for name in names if name not in bpf and not found & _bit(name)]


def in_first_user_namespace() -> bool:
    """What capabilities allow that are about the whole machine they allow only there (user_namespaces(7))."""
    return Path('/proc/self/uid_map').read_text().split() == ['0', '0', '4294967295']


def _bit(name: str) -> int:
    return 1 << _NUMBERS[name]


def _effective() -> int:
    data = ctypes.create_string_buffer(_DATA.size)
    _call('capget', _HEADER.pack(_VERSION_3, 0), data)
    low, _permitted, _inheritable, high, *_rest = _DATA.unpack(data.raw)
    return int(low | high << 32)


def _other_threads() -> int:
    return len(list(Path('/proc/self/task').iterdir())) - 1


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments):
        reason = os.strerror(ctypes.get_errno())
        raise SystemRefused(
            f'cannot give up capabilities ({name}: {reason}): let the daemon call {name}(2), which '
            'SystemCallFilter= of its unit, or the rules of its container, forbid'
        )
