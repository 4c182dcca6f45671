# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of sockaccel.kernel.abi, records and sources, for those who still import them from here."""

from pathlib import Path

from sockaccel.core.connection import Counter
from sockaccel.kernel.abi import COUNTERS, EVENT, FLOW, MAX_LISTED
from sockaccel.kernel.abi import EventRecord as Raw
from sockaccel.kernel.records import event_from, event_of, flow_of
from sockaccel.kernel.sources import directory as source_directory

__all__ = [
    'EVENT', 'FLOW', 'MAX_LISTED', 'Raw', 'counters', 'event_from', 'event_of', 'flow_of', 'source_directory',
]  # fmt: skip


def counters(_source: Path) -> list[Counter]:
    return COUNTERS
