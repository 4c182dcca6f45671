# SPDX-License-Identifier: GPL-2.0-or-later
"""Cgroups by their ids, whatever they are called."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sockaccel.core.target import Target
from sockaccel.systemd.cgroups import Cgroups
from tests.support.harness import Cgroup

UNITS: Any = None


@pytest.fixture(scope='module')
def directory() -> Iterator[Path]:
    with Cgroup(f'sockaccel-names-{os.getpid()}') as cgroup:
        yield cgroup.directory


# kernfs takes anything but "/" and NUL; cgroup_mkdir() refuses line breaks.
NAMES = st.binary(min_size=1, max_size=200).filter(
    lambda name: not set(name) & set(b'/\0\n') and name not in (b'.', b'..')
)


@settings(deadline=None, max_examples=50, suppress_health_check=list(HealthCheck))
@given(NAMES)
def test_any_name_is_text_that_a_message_can_carry(directory: Path, name: bytes) -> None:
    path = directory / os.fsdecode(name)
    path.mkdir()
    try:
        cgroups = Cgroups(UNITS)
        shown = cgroups.paths()[path.stat().st_ino]
        assert shown.encode().decode() == shown
        assert shown.startswith(f'/{directory.name}/')
        if name.isascii() and shown.isprintable():
            # Its name is a target.
            assert Target.parse(shown).name == '/' + '/'.join(part for part in shown.split('/') if part)
    finally:
        path.rmdir()


def test_the_root_and_what_is_below_have_their_ids(directory: Path) -> None:
    cgroups = Cgroups(UNITS)
    paths = cgroups.paths()
    assert paths[directory.stat().st_ino] == f'/{directory.name}'
    assert paths[cgroups.mount.stat().st_ino] == '/'
