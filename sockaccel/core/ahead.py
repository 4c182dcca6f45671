# SPDX-License-Identifier: GPL-2.0-or-later
"""An iterator that is one step ahead of who uses it."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar('T')


def ahead(values: Iterator[T]) -> Generator[T, None, None]:
    """The same values, each made in a thread while the one before it is used. None of them may be None.

    For what waits for the kernel: a walk and what is done with its parts take as long, and can run side by side.
    Raises what `values` raises.
    """
    with ThreadPoolExecutor(1, 'ahead') as thread:
        coming = thread.submit(next, values, None)
        while (value := coming.result()) is not None:
            coming = thread.submit(next, values, None)
            yield value
