# SPDX-License-Identifier: GPL-2.0-or-later
"""What a behaviour is, and the register of all of them."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.conformance.bench import Bench

FAMILIES = ('ipv4', 'ipv6', 'mapped')
BLOCKING = ('blocking',)
NONBLOCKING = ('nonblocking',)
BOTH = BLOCKING + NONBLOCKING

# What an application saw, as JSON. Three keys have a meaning: 'figures' is kept but not compared,
# 'hang' is set by the worker, 'unsupported' says what this kernel lacks.
Observation = dict[str, Any]


@dataclass(frozen=True)
class Behaviour:
    """One thing that an application can do with a connection."""

    name: str
    module: str
    observe: Callable[[Bench], Observation]
    families: tuple[str, ...]
    readers: tuple[str, ...]
    control_fails: tuple[str, ...]  # the readers under which the unchecked redirect must differ from TCP
    limit: float  # seconds; one that takes longer hangs, but see the worker
    alone: bool  # it loads the machine, so nothing runs beside it
    slow: bool  # it takes long on a slow machine
    stays_tcp: bool  # its sockets are set up in a way that sockaccel leaves alone

    def cases(self) -> Iterator['Case']:
        for family in self.families:
            for reader in self.readers:
                yield Case(self.name, family, reader)


class Case(NamedTuple):
    """One run of a behaviour."""

    behaviour: str
    family: str
    reader: str

    def __str__(self) -> str:
        return f'{self.behaviour} [{self.family}, {self.reader}]'


_register: dict[str, Behaviour] = {}


def behaviour(
    name: str,
    *,
    readers: tuple[str, ...],
    families: tuple[str, ...] = FAMILIES,
    control_fails: bool | tuple[str, ...] = (),
    limit: float = 6.0,
    alone: bool = False,
    slow: bool = False,
    stays_tcp: bool = False,
) -> Callable[[Callable[[Bench], Observation]], Callable[[Bench], Observation]]:
    """Enter a function into the catalogue under a name that a user understands.

    control_fails is True if the unchecked redirect shows a fault in every case, or names the readers
    for which it does; limit is in seconds and for the control: others have far longer.
    """

    def enter(observe: Callable[[Bench], Observation]) -> Callable[[Bench], Observation]:
        if name in _register:
            raise ValueError(f"two behaviours are named '{name}'")
        failing = (readers if control_fails else ()) if isinstance(control_fails, bool) else control_fails
        module = observe.__module__.rpartition('.')[2]
        _register[name] = Behaviour(
            name, module, observe, families, readers, failing, limit, alone, slow, stays_tcp
        )
        return observe

    return enter


def catalogue() -> dict[str, Behaviour]:
    """Every behaviour by name, module by module in alphabetical order."""
    package = importlib.import_module('tests.conformance.behaviours')
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f'{package.__name__}.{module.name}')
    return _register
