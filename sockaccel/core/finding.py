# SPDX-License-Identifier: GPL-2.0-or-later
"""What the start-up probes say of the running kernel."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One answer of the kernel.

    severity: `ok`; `note` (something that is different, and safe); `issue` (ordinary programs can stall, Enable
    asks for its acceptance by name).
    """

    name: str
    severity: str
    sentence: str
