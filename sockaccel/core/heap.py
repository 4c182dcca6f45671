# SPDX-License-Identifier: GPL-2.0-or-later
"""What was large for a moment leaves the process no larger. Other C libraries than glibc know nothing of this."""

import ctypes
import gc

# include/malloc.h of glibc
_M_MMAP_THRESHOLD = -3
_LARGE = 128 * 1024

_libc = ctypes.CDLL(None)


def keep_large_apart() -> None:
    """Let the kernel have back at once what is large. To be called at the start.

    mallopt(3): without this, malloc() puts ever larger pieces among the small ones once some were freed, where
    each of them keeps what is free below it.
    """
    if hasattr(_libc, 'mallopt'):
        _libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Let the kernel have what is free. For after something large; it takes some ten milliseconds.

    Python keeps a few thousand tuples of each size for later, each of which keeps a megabyte around it (the arenas
    of Objects/obmalloc.c); gc.collect() lets them go. malloc() gives back what is free at its end alone, until
    malloc_trim(3) is called.
    """
    gc.collect()
    if hasattr(_libc, 'malloc_trim'):
        _libc.malloc_trim(ctypes.c_size_t(0))
