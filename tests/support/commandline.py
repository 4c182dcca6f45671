# SPDX-License-Identifier: GPL-2.0-or-later
"""What the command line of sockaccelctl takes."""

from sockaccel.ctl.arguments import parser


def commands() -> dict[str, list[str]]:
    """Each command with its options."""
    (choices,) = [action.choices for action in parser()._actions if action.dest == 'command']
    assert isinstance(choices, dict)
    return {
        name: [option for action in each._actions for option in action.option_strings if option.startswith('--')]
        for name, each in choices.items()
    }
