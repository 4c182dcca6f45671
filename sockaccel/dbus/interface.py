# SPDX-License-Identifier: GPL-2.0-or-later
"""What an object offers on the bus: its methods, signals and properties, declared where they are written.

dbus-next wants D-Bus types in the annotations, which no type checker can read, and knows no names of results. Here
a declaration names each argument, and annotations are Python's:

    @method('s target, a{sv} options', 'a{sv} row', action='org.sockaccel1.enable')
    async def EnableWithOptions(self, target: str, options: Options) -> Row: ...
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sockaccel.dbus.message import PROPERTIES, Message, Variant


@dataclass(frozen=True)
class Argument:
    """type: a single complete type of D-Bus."""

    type: str
    name: str


def arguments(text: str) -> tuple[Argument, ...]:
    """Those of a declaration such as 's target, a{sv} options'. Raises ValueError where a name is missing."""
    found = []
    for part in text.split(', ') if text else ():
        signature, name = part.split(' ')
        found.append(Argument(signature, name))
    return tuple(found)


def signature(declared: tuple[Argument, ...]) -> str:
    return ''.join(argument.type for argument in declared)


@dataclass(frozen=True)
class Method:
    """action: what polkit is asked before the method runs, None if everybody may call it.

    function: takes the interface and the values of `takes`; returns nothing, the value of `gives`, or a tuple of
    its values. It may be a coroutine function.
    """

    name: str
    takes: tuple[Argument, ...]
    gives: tuple[Argument, ...]
    action: str | None
    function: Callable[..., Any]


def method(takes: str = '', gives: str = '', *, action: str | None) -> Callable[[Callable[..., Any]], Method]:
    """Declare a method; its name on the bus is the function's. See `arguments()` and `Method`."""

    taken, given = arguments(takes), arguments(gives)

    def declare(function: Callable[..., Any]) -> Method:
        return Method(function.__name__, taken, given, action, function)

    return declare


@dataclass
class Signal:
    """A signal, as an attribute of an interface: `Changed = Signal('s name')`."""

    declared: str
    name: str = ''
    gives: tuple[Argument, ...] = ()

    def __set_name__(self, _owner: type, name: str) -> None:
        self.name, self.gives = name, arguments(self.declared)


@dataclass
class Property:
    """action: what polkit is asked before the property is set, where it can be.

    emits: whether changes are signalled, in the words of the specification's annotation EmitsChangedSignal:
    "true", "false", or "const" for a value that never changes.
    """

    name: str
    type: str
    emits: str
    get: Callable[[Any], Any]
    set: Callable[[Any, Any], None] | None = None
    action: str | None = None

    def setter(self, action: str) -> Callable[[Callable[[Any, Any], None]], Callable[[Any, Any], None]]:
        """Declare how the property is set."""

        def declare(function: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
            self.set, self.action = function, action
            return function

        return declare


def prop(type_: str, *, emits: str = 'true') -> Callable[[Callable[[Any], Any]], Property]:
    """Declare a property; its name on the bus is the function's, which returns the value. See `Property`."""

    def declare(function: Callable[[Any], Any]) -> Property:
        return Property(function.__name__, type_, emits, function)

    return declare


@dataclass
class _Place:
    """Where an interface is: the path of its object, and what sends a message from there."""

    path: str
    send: Callable[[Message], None]


def methods_of(interface: type['Interface']) -> dict[str, Method]:
    """The methods that a class declares, by name."""
    return {each.name: each for each in vars(interface).values() if isinstance(each, Method)}


class Interface:
    """The base of what is served. name: of the interface on the bus."""

    def __init__(self, name: str) -> None:
        self.name = name
        members = vars(type(self)).values()
        self.methods = methods_of(type(self))
        self.signals = {each.name: each for each in members if isinstance(each, Signal)}
        self.properties = {each.name: each for each in members if isinstance(each, Property)}
        self._place: _Place | None = None

    def serve_at(self, path: str, send: Callable[[Message], None]) -> None:
        """From now on signals are sent, as those of this object."""
        self._place = _Place(path, send)

    def emit(self, which: Signal, *values: Any) -> None:
        """Tell whoever listens; nobody does while the interface is not served."""
        self._send(self.name, which.name, signature(which.gives), list(values))

    def properties_changed(self, *names: str) -> None:
        """Tell whoever listens what these properties are now."""
        changed = {name: self.value(self.properties[name]) for name in names}
        self._send(PROPERTIES, 'PropertiesChanged', 'sa{sv}as', [self.name, changed, []])

    def value(self, which: Property) -> Variant:
        """What a property is now."""
        return Variant(which.type, which.get(self))

    def _send(self, interface: str, member: str, signature: str, body: list[Any]) -> None:
        if self._place:
            self._place.send(Message.new_signal(self._place.path, interface, member, signature, body))
