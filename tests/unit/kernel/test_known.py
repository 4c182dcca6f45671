# SPDX-License-Identifier: GPL-2.0-or-later
"""Executables and their paths as the kernel has them."""

import os
from pathlib import Path

from sockaccel.kernel import executables
from sockaccel.kernel.abi import PATH_BYTES, PATH_PART, PATH_PARTS
from sockaccel.kernel.known import path_of


def names(*parts: str) -> bytes:
    return b''.join(part.encode().ljust(PATH_PART, b'\0') for part in parts).ljust(PATH_BYTES, b'\0')


def test_paths() -> None:
    assert PATH_PARTS * PATH_PART == PATH_BYTES
    assert path_of(names()) == ''
    assert path_of(names('proxy', 'bin', 'usr')) == '/usr/bin/proxy'
    # A file system of its own at /usr.
    assert path_of(names('proxy', 'bin', '', 'usr')) == '/usr/bin/proxy'
    assert path_of(names('a\x1b[2Jb', 'bin')) == '/bin/a�[2Jb'
    long = 'x' * (PATH_PART - 1)
    assert path_of(names(long, 'bin')) == f'/bin/{long}…'
    assert path_of(names(*(str(number) for number in range(PATH_PARTS)))).startswith(f'…/{PATH_PARTS - 1}/')


def test_what_a_path_names(tmp_path: Path) -> None:
    file = tmp_path / 'program'
    file.touch()
    (tmp_path / 'link').symlink_to(file)
    found = executables.find(str(file))
    assert found
    assert found.inode == file.stat().st_ino
    assert executables.find(str(tmp_path / 'link')) == found
    assert executables.find(str(tmp_path)) is None
    assert executables.find(str(tmp_path / 'gone')) is None
    # Where stat() tells the number of the file system itself, which it does not on btrfs and overlayfs.
    device = Path('/dev').stat().st_dev
    (fifo := Path('/dev/shm', f'sockaccel-test-{os.getpid()}')).touch()
    try:
        other = executables.find(str(fifo))
        assert other
        shm = fifo.stat().st_dev
        assert other.device == os.major(shm) << 20 | os.minor(shm)
        assert shm != device
    finally:
        fifo.unlink()
