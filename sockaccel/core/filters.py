# SPDX-License-Identifier: GPL-2.0-or-later
"""Filters that users give as a dictionary, such as those of listings and of events."""

from collections.abc import Iterable, Mapping
from dataclasses import Field
from typing import Any

from sockaccel.core.target import quote
from sockaccel.errors import InvalidArgument


def check(wanted: Mapping[str, Any], members: Iterable[Field[Any]]) -> None:
    """Whether a filter can be made of what a user gave. members: each of type `str | None` or `int | None`.

    Raises InvalidArgument, naming what is wrong.
    """
    types = {member.name: int if 'int' in str(member.type) else str for member in members}
    for name, value in wanted.items():
        if name not in types:
            raise InvalidArgument(f'filter {quote(name)} is unknown, there are {", ".join(types)}')
        if type(value) is not types[name]:
            raise InvalidArgument(f'filter "{name}" is not a {"number" if types[name] is int else "string"}')
