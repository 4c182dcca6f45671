# SPDX-License-Identifier: GPL-2.0-or-later
"""What keeps a program that reads by splice() whole is the evidence. Without it, it gets an error and no gap.

The mark then is only as fast as the daemon, which takes a marked end out of the map. Without both, only where the
kernel can abort a connection is there an error to give. Elsewhere bytes are lost.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installed import system
from tests.installed.test_splice import CONNECTIONS, SENT, Brought, got_through_the_proxy

BPF = Path('/usr/share/sockaccel/bpf')
# A part, and how it is taken out: the file, what stands there and what shall.
PARTS = {
    # A redirect needs the reader to have used recv(): reason_in_order().
    'evidence': ('verdict.c', '    watched = target->flags & TARGET_RECV_WATCHED;', '    watched = 0;'),
    # Who calls splice() leaves the map.
    'mark': ('watch.c', 'note_seen(end, SPLICE_END, KNOWN_SPLICES);', ''),
}


@contextlib.contextmanager
def _taken_out(parts: frozenset[str]) -> Iterator[None]:
    before = {name: (BPF / name).read_text() for name, _there, _instead in PARTS.values()}
    try:
        for name, there, instead in map(PARTS.__getitem__, parts):
            text = (BPF / name).read_text()
            assert text.count(there) == 1, there
            (BPF / name).write_text(text.replace(there, instead))
        yield
    finally:
        for name, text in before.items():
            (BPF / name).write_text(text)


@pytest.mark.parametrize('missing', ['evidence and mark', 'evidence', 'mark'])
def test_an_upload_without(missing: str) -> None:
    with _taken_out(frozenset(missing.split(' and '))):
        system.accept_issues()
        system.run('systemctl', 'start', 'sockaccel.service')
        if 'splice' in system.issues():
            pytest.skip('this kernel takes no watchers')
        (brought,) = got_through_the_proxy('connections')
        print(f'without {missing} {len(brought.refused)} of {CONNECTIONS} uploads ended with an error')
        unharmed = {SENT[number] for number in range(CONNECTIONS) if number not in brought.refused}
        if missing == 'evidence and mark' and not system.can_abort():
            assert not unharmed <= set(brought.got)
            return
        # Whoever was told of no error has lost nothing.
        assert unharmed <= set(brought.got)
        if missing == 'mark':
            assert brought == Brought(SENT, set())
        if missing == 'evidence and mark':
            # So the evidence alone has kept the others whole.
            assert len(brought.refused) == CONNECTIONS
            assert system.stats()['connection_reason_splice_unread'] >= CONNECTIONS
