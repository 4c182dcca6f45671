# SPDX-License-Identifier: GPL-2.0-or-later
"""The XML that describes an object (D-Bus specification, "Introspection Data Format").

dbus-next finds children by the text of their paths, and knows neither annotations nor names of results.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterable

from sockaccel.dbus.interface import Argument, Interface
from sockaccel.dbus.message import DBUS, INTROSPECTABLE, PEER, PROPERTIES

_DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)
# What `sockaccel.dbus.serving` answers for every object.
_STANDARD = f"""\
<node>
  <interface name="{INTROSPECTABLE}">
    <method name="Introspect"><arg name="data" direction="out" type="s"/></method>
  </interface>
  <interface name="{PEER}">
    <method name="GetMachineId"><arg name="machine_uuid" direction="out" type="s"/></method>
    <method name="Ping"/>
  </interface>
  <interface name="{PROPERTIES}">
    <method name="Get">
      <arg name="interface_name" direction="in" type="s"/>
      <arg name="property_name" direction="in" type="s"/>
      <arg name="value" direction="out" type="v"/>
    </method>
    <method name="Set">
      <arg name="interface_name" direction="in" type="s"/>
      <arg name="property_name" direction="in" type="s"/>
      <arg name="value" direction="in" type="v"/>
    </method>
    <method name="GetAll">
      <arg name="interface_name" direction="in" type="s"/>
      <arg name="props" direction="out" type="a{{sv}}"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface_name" type="s"/>
      <arg name="changed_properties" type="a{{sv}}"/>
      <arg name="invalidated_properties" type="as"/>
    </signal>
  </interface>
</node>
"""


def document(interfaces: Iterable[Interface], children: Iterable[str]) -> str:
    """The answer to Introspect. children: the names of the objects one level below."""
    node = ET.Element('node')
    described = [describe(interface) for interface in interfaces]
    if described:
        node.extend(ET.fromstring(_STANDARD))
        node.extend(described)
    for name in children:
        ET.SubElement(node, 'node', name=name)
    ET.indent(node)
    return _DOCTYPE + ET.tostring(node, encoding='unicode')


def describe(interface: Interface) -> ET.Element:
    """One interface, with its members in the order in which they are written."""
    element = ET.Element('interface', name=interface.name)
    for method in interface.methods.values():
        added = ET.SubElement(element, 'method', name=method.name)
        _add(added, method.takes, {'direction': 'in'})
        _add(added, method.gives, {'direction': 'out'})
    for signal in interface.signals.values():
        _add(ET.SubElement(element, 'signal', name=signal.name), signal.gives, {})
    for prop in interface.properties.values():
        access = 'readwrite' if prop.set else 'read'
        added = ET.SubElement(element, 'property', name=prop.name, type=prop.type, access=access)
        # "true" is what the specification takes for granted.
        if prop.emits != 'true':
            ET.SubElement(added, 'annotation', name=f'{DBUS}.Property.EmitsChangedSignal', value=prop.emits)
    return element


def _add(member: ET.Element, arguments: Iterable[Argument], direction: dict[str, str]) -> None:
    """direction: an attribute that arguments of methods have, and those of signals have not."""
    for argument in arguments:
        ET.SubElement(member, 'arg', {'name': argument.name, 'type': argument.type, **direction})
