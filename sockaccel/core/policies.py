# SPDX-License-Identifier: GPL-2.0-or-later
"""The policies of targets, made of what files say and of what Enable and SetPolicy chose."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sockaccel.core.keys import POLICY_KEYS, policy_key, text_of
from sockaccel.core.led_keys import Given
from sockaccel.core.limits import MAX_RULES
from sockaccel.core.policy import DEFAULTS, MANY_RULES, Layer, Policy
from sockaccel.core.target import quote
from sockaccel.core.words import CHOSEN
from sockaccel.errors import InvalidArgument

# What somebody chose for a target by Enable or SetPolicy: texts as a file would have them, by key; none is empty.
Settings = Mapping[str, str]


@dataclass(frozen=True)
class Section:
    """A section [Target ...]: a target that is enabled as long as a file has it. source: its first file:line.

    led: what it says of a proxy.
    """

    source: str
    layer: Layer = field(default_factory=Layer)
    led: Given = field(default_factory=dict)


@dataclass(frozen=True)
class Policies:
    """What the files say. defaults: section [Sockaccel]. sections: those of targets, by the target's name."""

    defaults: Layer = field(default_factory=Layer)
    sections: Mapping[str, Section] = field(default_factory=dict)

    def of(self, name: str, chosen: Settings) -> Policy:
        """The policy of a target. chosen: by Enable and SetPolicy, which a section takes the place of.

        A kernel issue that anybody has accepted is accepted. Raises InvalidArgument.
        """
        policy, layer = self.defaults.on(DEFAULTS), layer_of(chosen)
        if section := self.sections.get(name):
            adds = {name: value for name, value in layer.values.items() if POLICY_KEYS[name].adds}
            policy, layer = section.layer.on(policy), Layer(adds, layer.sources)
        policy = layer.on(policy)
        if len(policy.rules) > MAX_RULES:
            raise InvalidArgument(f'the policy of target {quote(name)} has {len(policy.rules)}, but {MANY_RULES}')
        return policy


def layer_of(settings: Settings) -> Layer:
    """What Enable or SetPolicy chose. Raises InvalidArgument."""
    layer = Layer()
    try:
        for name, text in settings.items():
            layer = layer.assigned(name, text.strip(), CHOSEN)
    except ValueError as exc:
        raise InvalidArgument(str(exc)) from exc
    return layer


def changed(chosen: Settings, more: Settings) -> dict[str, str]:
    """What is chosen when more is; an empty text brings a key's default back. Raises InvalidArgument."""
    for name, text in more.items():
        try:
            policy_key(name)
        except ValueError as exc:
            raise InvalidArgument(str(exc)) from exc
        if not text.strip():
            chosen = {key: value for key, value in chosen.items() if key != name}
    values = layer_of({**chosen, **{name: text for name, text in more.items() if text.strip()}}).values
    return {name: text_of(value) for name, value in values.items()}
