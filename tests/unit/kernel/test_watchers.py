# SPDX-License-Identifier: GPL-2.0-or-later
"""Watchers are optional: what the kernel takes is attached once and kept, what it refuses is said."""

import errno
import os
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from sockaccel.core.finding import Finding
from sockaccel.kernel import libbpf, watched, watchers
from sockaccel.kernel.watched import WATCHERS
from sockaccel.kernel.watchers import Watchers

ALL = dict.fromkeys(WATCHERS, 1000)
ALWAYS = {name for name, watcher in WATCHERS.items() if not watcher.on_demand}


class Kernel:
    """In the place of libbpf: what it refuses, by the function's BTF id and by what is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.load_fails = self.attach_fails = 0
        self.attached: list[int] = []
        monkeypatch.setattr(libbpf, 'load_tracing', self._load)
        monkeypatch.setattr(libbpf, 'attach_function', self._attach)

    def _load(self, _name: bytes, _code: bytes, _at: int, function: int) -> int:
        number = self.load_fails or (errno.EINVAL if function == watched.NO_FUNCTION else 0)
        if number:
            raise OSError(number, os.strerror(number))
        return os.eventfd(0)

    def _attach(self, program: int, _at: int) -> int:
        if self.attach_fails:
            raise OSError(self.attach_fails, os.strerror(self.attach_fails))
        self.attached.append(program)
        return os.eventfd(0)


class Keeper:
    def __init__(self) -> None:
        self.kept: set[str] = set()

    def keep_watcher(self, name: str, _link: int) -> None:
        self.kept.add(name)

    def drop_watchers(self, names: Iterable[str]) -> None:
        self.kept.difference_update(names)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    before = len(os.listdir('/proc/self/fd'))
    yield Kernel(monkeypatch)
    assert len(os.listdir('/proc/self/fd')) == before


def values(*functions: str) -> dict[str, int]:
    return {f'FUNCTION_{function}': 5000 for function in functions}


def test_those_whose_function_exists_are_taken(kernel: Kernel) -> None:
    names = [watcher.function for watcher in WATCHERS.values()]
    assert watched.taken(values(*names)) == WATCHERS
    aborting = {watched.KFUNC_DESTROY: 6000, **values(*names)}
    assert watched.taken(aborting).keys() == {*WATCHERS, watched.ABORTER}
    assert kernel.attached
    assert not watched.taken(values())


def test_a_kernel_that_takes_none_is_not_searched(kernel: Kernel) -> None:
    kernel.load_fails = errno.EPERM
    nowhere: Any = None
    assert watched.defines(nowhere) == {}


@pytest.mark.parametrize('what', ['load_fails', 'attach_fails'])
def test_a_kernel_that_refuses_one_gets_none(kernel: Kernel, what: str) -> None:
    setattr(kernel, what, errno.EPERM)
    assert not watched.taken(values(*(watcher.function for watcher in WATCHERS.values())))


def test_they_are_attached_once_and_kept(kernel: Kernel) -> None:
    keeper = Keeper()
    made = Watchers(ALL, {}, keeper)
    for _again in range(2):
        made.attach()
        assert kernel.attached == [ALL[name] for name in ALWAYS]
        assert keeper.kept == ALWAYS
        assert all((name in made) is (name in ALWAYS) for name in WATCHERS)
    made.close()
    assert keeper.kept == ALWAYS


def test_one_is_attached_while_it_is_needed(kernel: Kernel) -> None:
    keeper = Keeper()
    made = Watchers(ALL, {}, keeper)
    for needed in (False, True, True, False, False, True):
        made.demand(watched.WAIT_WATCHER, needed=needed)
        assert (watched.WAIT_WATCHER in made) is needed
        assert keeper.kept == ({watched.WAIT_WATCHER} if needed else set())
    assert len(kernel.attached) == 2
    made.detach()
    assert not keeper.kept


def test_one_that_an_earlier_version_had_is_attached_with_the_others(kernel: Kernel) -> None:
    keeper = Keeper()
    made = Watchers(ALL, {}, keeper)
    made.attach({watched.WAIT_WATCHER})
    assert keeper.kept == set(WATCHERS)
    # Until a walk has met nobody who needs it.
    made.demand(watched.WAIT_WATCHER, needed=False)
    assert keeper.kept == ALWAYS
    made.detach()


def test_audits_have_theirs_without_a_target(kernel: Kernel) -> None:
    keeper = Keeper()
    made = Watchers(ALL, {}, keeper)
    of_audits = set(watched.AUDIT_WATCHERS)

    def attached() -> set[str]:
        return {name for name in WATCHERS if name in made}

    for _again in range(2):
        made.serve_audits(wanted=True)
        assert attached() == of_audits
        # It goes with the process.
        assert not keeper.kept
    made.attach()
    assert attached() == keeper.kept == ALWAYS
    assert len(kernel.attached) == len(ALWAYS)
    made.detach()
    assert attached() == of_audits
    assert not keeper.kept
    for _again in range(2):
        made.serve_audits(wanted=False)
        assert not attached()
    made.attach()
    made.serve_audits(wanted=True)
    made.serve_audits(wanted=False)
    # A target needs them.
    assert attached() == keeper.kept == ALWAYS
    made.detach()


def test_what_would_see_nothing_is_not_attached(kernel: Kernel) -> None:
    right, wrong = Finding('fionread', 'ok', ''), Finding('fionread', 'issue', '')
    assert watchers.unneeded([wrong]) == watchers.unneeded([]) == frozenset()
    unneeded = watchers.unneeded([right])
    assert unneeded == set(watched.ASK_WATCHERS)
    made = Watchers(ALL, {}, Keeper(), unneeded)
    made.attach()
    assert len(kernel.attached) == len(ALWAYS - unneeded)
    assert not any(name in made for name in unneeded)
    made.detach()


def test_fionread_is_no_issue_where_it_is_seen_who_asks(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, other = Finding('fionread', 'issue', 'it is wrong'), Finding('ktls', 'note', 'x')
    found = {finding.name: finding for finding in watchers.findings(list(WATCHERS), [wrong, other])}
    assert found['fionread'].severity == 'note'
    assert found['fionread'].sentence.startswith('it is wrong; sockaccel sees who asks')
    assert found['ktls'] == other
    for there in ([], [watched.RECV_WATCHER], [watched.ASK_WATCHERS[1]]):
        assert wrong in watchers.findings(there, [wrong])
    # Older kernels have no function of its own for members.
    for lacks in (False, True):
        monkeypatch.setattr(watchers, '_lacks', lambda _function, lacks=lacks: lacks)
        loaded = [name for name in WATCHERS if name != watched.ASK_WATCHERS[1]]
        assert (wrong not in watchers.findings(loaded, [wrong])) is lacks


def test_those_of_an_earlier_process_are_not_attached_again(kernel: Kernel) -> None:
    made = Watchers(ALL, {name: os.eventfd(0) for name in WATCHERS}, Keeper())
    made.attach()
    assert not kernel.attached
    made.detach()


def test_detached_they_are_not_kept(kernel: Kernel) -> None:
    keeper = Keeper()
    made = Watchers(ALL, {}, keeper)
    made.attach()
    for _again in range(2):
        made.detach()
        assert not keeper.kept
        assert not any(name in made for name in WATCHERS)
    assert kernel.attached


def test_one_that_cannot_be_attached_is_left_out(kernel: Kernel) -> None:
    kernel.attach_fails = errno.EBUSY
    made = Watchers(ALL, {}, Keeper())
    made.attach()
    assert not any(name in made for name in WATCHERS)


def test_nothing_is_attached_that_was_not_loaded(kernel: Kernel) -> None:
    Watchers({'sockaccel_join': 7}, {}, Keeper()).attach()
    assert not kernel.attached


def test_what_the_kernel_refuses_is_said(kernel: Kernel) -> None:
    kernel.load_fails = errno.EPERM
    (finding,) = watchers.findings([])
    assert (finding.name, finding.severity) == ('splice', 'issue')
    assert 'Operation not permitted' in finding.sentence
    (finding,) = watchers.findings([*WATCHERS, watched.ABORTER])
    assert finding.severity == 'ok'
    _splice, finding = watchers.findings(list(WATCHERS))
    assert 'no bpf_sock_destroy()' in finding.sentence
    (finding, *notes) = watchers.findings([watched.RECV_WATCHER])
    assert finding.severity == 'ok'
    assert [(note.name, note.severity) for note in notes] == [('watchers', 'note')] * len(WATCHERS)
