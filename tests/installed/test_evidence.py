# SPDX-License-Identifier: GPL-2.0-or-later
"""What keeps a program that reads by splice() whole: evidence and mark. Either holds alone, and something must."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installed import system
from tests.installed.test_splice import SENT, got_through_the_proxy

BPF = Path('/usr/share/sockaccel/bpf')
# A part, and how it is taken out: the file, what stands there and what shall.
_PARTS = {
    # A redirect needs the reader to have used recv().
    'evidence': ('verdict.c', 'watched = target->flags & TARGET_RECV_WATCHED;', 'watched = 0;'),
    # Who calls splice() leaves the map.
    'mark': ('watch.c', 'note_seen(end, SPLICE_END, KNOWN_SPLICES);', ''),
}


@contextlib.contextmanager
def _taken_out(parts: frozenset[str]) -> Iterator[None]:
    before = {name: (BPF / name).read_text() for name, _there, _instead in _PARTS.values()}
    try:
        for name, there, instead in map(_PARTS.__getitem__, parts):
            text = (BPF / name).read_text()
            assert text.count(there) == 1, there
            (BPF / name).write_text(text.replace(there, instead))
        yield
    finally:
        for name, text in before.items():
            (BPF / name).write_text(text)


@pytest.mark.parametrize('missing', ['evidence', 'mark', 'evidence and mark'])
def test_an_upload_without(missing: str) -> None:
    with _taken_out(frozenset(missing.split(' and '))):
        system.accept_issues()
        system.run('systemctl', 'start', 'sockaccel.service')
        if 'splice' in system.issues():
            pytest.skip('this kernel takes no watchers')
        (uploaded,) = got_through_the_proxy('connections')
        got, sent = sum(map(len, uploaded)), sum(map(len, SENT))
        print(f'without {missing} {sent - got} of {sent} bytes are lost')
        # Either is enough. Without both the proxy loses bytes, so the other two show something.
        assert (uploaded == SENT) is (missing != 'evidence and mark')
