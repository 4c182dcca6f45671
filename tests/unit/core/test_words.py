# SPDX-License-Identifier: GPL-2.0-or-later
"""What clients read is written here a second time: whoever changes a word on purpose changes it in two places."""

import inspect

from sockaccel import errors
from sockaccel.core import words
from sockaccel.core.connection import ConnectionState, EventKind
from sockaccel.core.target import State
from sockaccel.core.watch import Traffic
from sockaccel.kernel.abi import COUNTERS, LeadCounter

# Errors that no caller of the bus is told of: they end the daemon, or become another one.
_INSIDE = {
    errors.SockaccelError, errors.UnsupportedKernel, errors.SystemRefused, errors.MissingDependency,
    errors.LoaderEnded, errors.NoSystemBus, errors.AskFailed, errors.AlreadyRunning,
}  # fmt: skip


def test_names_on_the_bus() -> None:
    assert words.BUS_NAME == 'org.sockaccel1'
    assert words.OBJECT_PATH == '/org/sockaccel1'
    assert words.MANAGER == 'org.sockaccel1.Manager'


def test_states_paths_kinds_and_severities() -> None:
    assert words.CHOSEN == 'set'
    assert [*words.TARGET_STATES.values(), words.DISABLED] == [
        'active', 'waiting', 'refused', 'draining', 'probation', 'disabled',
    ]  # fmt: skip
    assert list(words.CONNECTION_STATES.values()) == ['connecting', 'candidate', 'joined', 'left']
    assert list(words.EVENT_KINDS.values()) == ['joined', 'refused', 'fallback', 'closed', 'evicted', 'broken']
    assert words.PATHS == ('redirect', 'tcp', 'mixed')
    assert list(words.TRAFFIC.values()) == ['idle', 'requests', 'stream']
    assert words.SEVERITIES == ('ok', 'note', 'issue')


def test_every_member_of_an_enum_has_a_word() -> None:
    assert words.TARGET_STATES.keys() == set(State)
    assert words.CONNECTION_STATES.keys() == set(ConnectionState)
    assert words.TRAFFIC.keys() == set(Traffic)
    assert set(EventKind) - words.EVENT_KINDS.keys() == {
        EventKind.SWEEP_WANTED,
        EventKind.CONNECTION,
        EventKind.PROGRAM,
    }


def test_counters_of_what_is_led() -> None:
    names = ['led', 'excepted', 'own_listener', 'proxy_down', 'bypassed', 'origin_given', 'mptcp', 'no_room',
             'led_in', 'proxy_down_in', 'bypassed_in', 'unreached']  # fmt: skip
    assert [each.name.lower() for each in LeadCounter] == list(words.LEAD_COUNTERS) == names


def test_errors() -> None:
    assert sorted(words.ERRORS.values()) == [
        'InvalidArgument', 'InvalidConfiguration', 'InvalidTarget', 'KernelIssue', 'KernelRefused',
        'LimitExceeded', 'ManagedByFile', 'NotPermitted', 'StateNotSaved', 'UnknownTarget',
    ]  # fmt: skip
    assert words.error_name(errors.UnknownTarget('x')) == 'org.sockaccel1.Error.UnknownTarget'
    assert words.is_error('org.sockaccel1.Error.UnknownTarget', errors.UnknownTarget)
    assert not words.is_error('org.sockaccel1.Error.KernelIssue', errors.UnknownTarget)


def test_every_error_has_a_name_or_stays_inside() -> None:
    every = {each for _name, each in inspect.getmembers(errors, inspect.isclass)}
    assert every == _INSIDE | words.ERRORS.keys()
    assert words.error_name(errors.AskFailed('x')) == 'org.sockaccel1.Error.Failed'


def test_a_renamed_class_changes_nothing() -> None:
    before = errors.UnknownTarget.__name__
    errors.UnknownTarget.__name__ = 'Renamed'
    try:
        assert words.error_name(errors.UnknownTarget('x')) == 'org.sockaccel1.Error.UnknownTarget'
    finally:
        errors.UnknownTarget.__name__ = before


def test_counters_and_reasons() -> None:
    """A new counter in bpf/abi/counters.h is added to the table too, and then has its name for good."""
    there = {(counter.kind, counter.name) for counter in COUNTERS}
    assert there == {(kind, name) for kind, names in words.COUNTERS.items() for name in names}
