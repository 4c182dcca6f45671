# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of programs: from the list, from watchers, and over restarts."""

import asyncio

import pytest
from structlog.testing import capture_logs

from sockaccel.core.finding import Finding
from sockaccel.core.knowledge import Knowledge
from sockaccel.core.limits import MAX_PROGRAMS
from sockaccel.core.program_list import Listed
from sockaccel.core.programs import Executable, Programs, Seen
from sockaccel.errors import InvalidArgument, StateNotSaved
from tests.support.memory_kernel import Failures, MemoryMaps, MemoryPrograms

BLIND = [Finding('splice', 'issue', ''), Finding('fionread', 'issue', '')]
SEES = [Finding('splice', 'ok', ''), Finding('fionread', 'note', '')]
RIGHT = [Finding('splice', 'ok', ''), Finding('fionread', 'ok', '')]
PROXY, OTHER = Executable(8, 100), Executable(8, 200)
LISTED = [
    Listed('haproxy', Knowledge.SPLICES, 'x:1'),
    Listed('nginx', Knowledge.ASKS_FIONREAD, 'x:2'),
    Listed('/bin/proxy', Knowledge.SPLICES, 'x:3'),
]
KNOWN_HURT = Knowledge.SPLICES | Knowledge.ASKS_FIONREAD


class Host:
    """Maps, memory and files that outlive the object under test."""

    def __init__(self) -> None:
        self.failures = Failures()
        self.maps = MemoryMaps(self.failures)
        self.memory = MemoryPrograms(self.failures)
        self.files = {'/bin/proxy': PROXY}

    def start(self, findings: list[Finding], listed: list[Listed] = LISTED) -> Programs:
        programs = Programs(self.maps, self.memory, self.files.get, findings)
        programs.start(listed)
        return programs

    def known(self) -> dict[Executable, Knowledge]:
        return {executable: seen.knowledge for executable, seen in self.maps.held.items()}


def test_the_list_holds_where_the_kernel_shows_nothing() -> None:
    host = Host()
    programs = host.start(BLIND)
    assert host.maps.named == {'haproxy': Knowledge.SPLICES, 'nginx': Knowledge.ASKS_FIONREAD}
    assert host.known() == {PROXY: Knowledge.SPLICES}
    assert [(row.name, row.in_force) for row in programs.rows()] == [
        ('haproxy', True), ('nginx', True), ('/bin/proxy', True),
    ]  # fmt: skip
    programs.use([])
    assert host.maps.named == {}
    assert host.known() == {}
    assert programs.rows() == []


@pytest.mark.parametrize('findings', [SEES, RIGHT])
def test_what_is_seen_decides_where_it_can_be(findings: list[Finding]) -> None:
    host = Host()
    programs = host.start(findings)
    assert host.maps.named == {}
    assert host.known() == {}
    assert not any(row.in_force for row in programs.rows())


def test_one_issue_alone() -> None:
    host = Host()
    host.start([Finding('splice', 'issue', ''), Finding('fionread', 'ok', '')])
    assert host.maps.named == {'haproxy': Knowledge.SPLICES}


def test_a_path_where_nothing_is() -> None:
    host = Host()
    host.files.clear()
    with capture_logs() as lines:
        programs = host.start(BLIND)
    assert [line['event'] for line in lines] == ['No executable is at "/bin/proxy" (x:3), ignoring']
    assert not next(row for row in programs.rows() if row.name == '/bin/proxy').in_force


def test_what_was_seen_outlives_the_daemon() -> None:
    host = Host()
    programs = host.start(SEES, [])
    host.maps.watch(PROXY, '/bin/proxy', Knowledge.SPLICES, since=42)
    with capture_logs() as lines:
        assert programs.refresh()
        assert not programs.refresh()
    assert [line['event'] for line in lines] == [
        'Remembers "/bin/proxy": it reads by splice(), which does not find redirected bytes'
    ]
    asyncio.run(programs.save())
    # After a reboot: nothing in the kernel, and another number for the disk.
    host.maps.held.clear()
    host.files['/bin/proxy'] = Executable(9, PROXY.inode)
    again = host.start(SEES, [])
    assert host.known() == {Executable(9, PROXY.inode): Knowledge.SPLICES}
    (row,) = again.rows()
    assert (row.name, row.knowledge, row.since, row.in_force) == ('/bin/proxy', Knowledge.SPLICES, 42, True)


@pytest.mark.parametrize('now', [None, OTHER])
def test_another_file_is_another_program(now: Executable | None) -> None:
    host = Host()
    host.memory.written = [Seen(PROXY, '/bin/proxy', Knowledge.SPLICES, 1)]
    host.files = {'/bin/proxy': now} if now else {}
    assert host.start(SEES, []).rows() == []
    assert host.known() == {}


def test_a_restart_takes_what_the_kernel_has() -> None:
    """Also of a program whose file the daemon cannot look at, such as one of a container."""
    host = Host()
    host.maps.watch(OTHER, '/in/a/container', Knowledge.ASKS_FIONREAD)
    # Of a list that named it.
    host.maps.write(PROXY, Knowledge.SPLICES)
    programs = host.start(SEES, [])
    assert [row.name for row in programs.rows()] == ['/in/a/container']
    assert host.known() == {OTHER: Knowledge.ASKS_FIONREAD}


def test_fionread_does_no_harm_where_it_is_right() -> None:
    host = Host()
    host.memory.written = [Seen(PROXY, '/bin/proxy', KNOWN_HURT, 1)]
    host.start(RIGHT, [])
    assert host.known() == {PROXY: Knowledge.SPLICES}


def test_knowledge_adds_up() -> None:
    host = Host()
    programs = host.start(SEES, [])
    host.maps.watch(PROXY, '/bin/proxy', Knowledge.SPLICES, since=1)
    assert programs.refresh()
    host.maps.watch(PROXY, '/bin/proxy', Knowledge.BLOCKS, since=9)
    assert programs.refresh()
    (row,) = programs.rows()
    assert (row.knowledge, row.since) == (Knowledge.SPLICES | Knowledge.BLOCKS, 1)


def test_forget() -> None:
    async def story() -> None:
        host = Host()
        programs = host.start(BLIND)
        host.maps.watch(OTHER, '/bin/other', Knowledge.SPLICES)
        programs.refresh()
        await programs.save()
        with pytest.raises(InvalidArgument, match='remembered of "/bin/proxy": it is listed in x:3'):
            await programs.forget('/bin/proxy')
        with pytest.raises(InvalidArgument, match='remembered of "/nothing", see "sockaccelctl programs"'):
            await programs.forget('/nothing')
        host.failures.plan('write programs', StateNotSaved('no room'))
        with pytest.raises(StateNotSaved):
            await programs.forget('/bin/other')
        assert OTHER in host.known()
        assert '/bin/other' in [row.name for row in programs.rows()]
        await programs.forget('/bin/other')
        assert host.known() == {PROXY: Knowledge.SPLICES}
        assert host.memory.written == []

    asyncio.run(story())


def test_who_may_not_inspect_sees_the_list_alone() -> None:
    host = Host()
    programs = host.start(BLIND)
    host.maps.watch(OTHER, '/home/x/secret', Knowledge.SPLICES)
    assert '/home/x/secret' in [row.name for row in programs.rows()]
    assert [row.name for row in programs.rows(seen=False)] == ['haproxy', 'nginx', '/bin/proxy']


def test_the_limit() -> None:
    host = Host()
    for number in range(MAX_PROGRAMS + 1):
        host.maps.watch(Executable(1, number), f'/{number}', Knowledge.SPLICES)
    with capture_logs() as lines:
        programs = host.start(SEES, [])
        programs.refresh()
    assert len(programs.rows()) == MAX_PROGRAMS
    said = [line['event'] for line in lines]
    assert len(said) == 1
    assert said[0].startswith('1024 programs are remembered, and no further one will be')


def test_the_sentence_before_an_issue_is_accepted() -> None:
    programs = Host().start(BLIND)
    one, everything = programs.sentence('/x'), programs.sentence('*')
    assert one.startswith('Known, and left to TCP: haproxy, nginx, /bin/proxy (sockaccelctl programs); any other')
    assert everything.startswith('Known, and left to TCP: haproxy')
    assert len(everything) > len(one)
    assert 'Rather enable the units' in everything
    assert 'No program is known' in Host().start(BLIND, []).sentence('/x')
    many = [Listed(f'p{number}', Knowledge.SPLICES, 'x:1') for number in range(20)]
    assert 'p11 and 8 more (' in Host().start(BLIND, many).sentence('/x')


def test_no_room_in_the_kernel_is_survivable() -> None:
    host = Host()
    host.failures.plan('write program', OSError(7, 'Argument list too long'))
    with capture_logs() as lines:
        programs = host.start(BLIND)
    assert [line['event'] for line in lines] == [
        'A known program cannot be kept out (Argument list too long), ignoring'
    ]
    assert programs.rows()
