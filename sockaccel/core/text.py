# SPDX-License-Identifier: GPL-2.0-or-later
"""Text of others, made fit for a line that a person reads."""


def printable(text: str) -> str:
    """A program chooses its own name, and a terminal would obey control characters in it."""
    return ''.join(letter if letter.isprintable() else '\ufffd' for letter in text)
