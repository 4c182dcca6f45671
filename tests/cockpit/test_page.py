# SPDX-License-Identifier: GPL-2.0-or-later
"""What people do with the page: an administrator, and somebody who may only look."""

import json
from collections.abc import Iterator

import pytest

from tests.cockpit.conftest import OUTPUT, Visit
from tests.cockpit.machine import ADMIN, READER, ROOT_USER, TARGET, Machine
from tests.cockpit.person import (
    add,
    another_page,
    become_administrator,
    begin_to_add,
    confirm,
    open_view,
    switch_of,
)
from tests.cockpit.sight import controls, pale_texts, reached_by_tab
from tests.support.harness import wait_until
from tests.support.patience import LONG_S
from tests.system.roots import Release

# The first test of a release builds the packages, and may make the release's root before.
pytestmark = pytest.mark.timeout(3 * LONG_S)
# Roles that mean nothing to a listener without a name.
NAMED = {
    'button',
    'checkbox',
    'combobox',
    'image',
    'link',
    'navigation',
    'spinbutton',
    'switch',
    'table',
    'textbox',
}
VIEWS = ('', 'connections', 'reasons', 'kernel')
# Two connections to port 7001, and five to port 7002 that are closed at once.
_MIXED = """
import socket, time
kept = []
for port, count in ((7001, 2), (7002, 5)):
    server = socket.create_server(('127.0.0.1', port))
    for _ in range(count):
        ends = [socket.create_connection(('127.0.0.1', port)), server.accept()[0]]
        if port == 7001:
            kept += ends
        else:
            for end in ends:
                end.close()
time.sleep(3600)
"""
MIXED = 'mixed.service'
SHARE = r'/\d%/.test($("#content table tbody").innerText)'


@pytest.fixture
def mixed(machine: Machine) -> Iterator[None]:
    """A service is a target that keeps two of its connections from acceleration, and has had five short ones."""
    machine.enable(MIXED)
    machine.control('set', MIXED, 'ExcludePorts=7001')
    machine.shell(f"cat >/run/mixed.py <<'END'\n{_MIXED}\nEND")
    machine.run('systemd-run', '--quiet', f'--unit={MIXED}', '--collect', 'python3', '/run/mixed.py')
    yield
    machine.run('systemctl', 'stop', MIXED)


def test_an_administrator_enables_sees_traffic_and_disables(machine: Machine, visit: Visit) -> None:
    with visit(ROOT_USER) as tab:
        tab.reads('#content', 'Nothing is accelerated yet')
        machine.chatter()
        add(tab, TARGET, machine.issues())
        tab.reads('#content table', TARGET)
        tab.reads('#content table', 'Active')
        assert [row['name'] for row in machine.targets()] == [TARGET]
        # The connections of before stay with TCP.
        machine.chatter()
        tab.wait(SHARE)
        # How many connections have joined.
        tab.wait('Number($("#content tbody tr").cells[4].innerText) >= 4')
        tab.wait(r'$("path.line.redirected").getAttribute("d").startsWith("M")')
        tab.wait(r'/[1-9]/.test($("figcaption strong").innerText)')
        open_view(tab, 'connections')
        tab.reads('#content table', 'python3[')
        tab.reads('#content table', 'Redirected')
        open_view(tab, 'reasons')
        tab.reads('#content', 'order')
        tab.reads('#content', 'What to do')
        open_view(tab, '')
        tab.click(switch_of(TARGET))
        tab.wait(f'$({json.dumps(switch_of(TARGET))}).getAttribute("aria-checked") === "false"')
        tab.reads('#content table', 'Off')
        assert [row['name'] for row in machine.targets() if row['state'] != 'draining'] == []


def test_pictures(machine: Machine, release: Release, visit: Visit) -> None:
    """At two sizes, light and dark; nothing is wider than the screen, and every text stands out."""
    machine.enable()
    machine.chatter(40)
    with visit(ROOT_USER) as tab:
        tab.wait(SHARE)
        for scheme, width, height in (
            ('dark', 400, 800),
            ('light', 400, 800),
            ('dark', 1200, 900),
            ('light', 1200, 900),
        ):
            tab.prefer(scheme)
            tab.resize(width, height)
            for view in VIEWS:
                open_view(tab, view)
                tab.finds('#content tbody tr')
                if not view:
                    tab.wait('$("path.line.redirected").getAttribute("d").includes("L")')
                name = f'{release.name}-{view or "overview"}-{width}-{scheme}.png'
                tab.picture(OUTPUT / name)
                assert tab.evaluate('page.document.documentElement.scrollWidth <= page.innerWidth'), name
                assert tab.evaluate('page.document.documentElement.classList.contains("dark")') == (
                    scheme == 'dark'
                )
                assert pale_texts(tab) == [], name
            open_view(tab, '')
            tab.click('#add')
            tab.picture(OUTPUT / f'{release.name}-adding-{width}-{scheme}.png')
            assert tab.evaluate('$("#adding").getBoundingClientRect().right <= page.innerWidth')
            assert tab.evaluate('$("#adding").scrollWidth <= $("#adding").clientWidth')
            assert pale_texts(tab) == [], (width, scheme)
            tab.press('Escape')
            tab.wait('!$("#adding").open')


@pytest.mark.parametrize(
    ('name', 'sentence'),
    [
        ('nosuch.service', 'nosuch.service'),
        ('/no/such/path', '/no/such/path'),
        ('', 'target'),
        ('not a unit', 'not a unit'),
    ],
)
def test_a_wrong_target_is_refused_with_the_sentence_of_the_daemon(
    machine: Machine, visit: Visit, name: str, sentence: str
) -> None:
    issues = machine.issues()
    expected = machine.refusal(name)
    with visit(ROOT_USER) as tab:
        begin_to_add(tab, name)
        tab.wait('!$("#adding-failed").hidden')
        if 'I accept' in tab.text('#adding'):
            confirm(tab, issues)
        tab.reads('#adding-failed', sentence)
        assert tab.evaluate('$("#adding-failed .alert-title").lastChild.textContent') == expected
        assert tab.evaluate('$("#adding").open')
    assert machine.targets() == []


def test_a_wrong_filter_is_refused_with_the_sentence_of_the_daemon(machine: Machine, visit: Visit) -> None:
    machine.enable()
    machine.chatter()
    with visit(ROOT_USER) as tab:
        open_view(tab, 'connections')
        tab.reads('#content table', 'python3[')
        tab.type('#filter-address', 'nowhere')
        tab.press('Enter')
        tab.reads('#content .alert.danger', 'nowhere')
        tab.type('#filter-address', '127.0.0.1')
        tab.press('Enter')
        tab.wait('$("#content .alert.danger").hidden')
        tab.reads('#content table', 'python3[')


def test_an_issue_of_the_kernel_must_be_confirmed(machine: Machine, visit: Visit) -> None:
    issues = machine.issues()
    if not issues:
        pytest.skip('this kernel has no issue')
    machine.chatter()
    with visit(ROOT_USER) as tab:
        tab.reads('#degraded', 'This kernel limits')
        begin_to_add(tab, TARGET)
        tab.reads('#adding', 'I accept')
        tab.click('#adding button[type=submit]')
        tab.reads('#adding-failed', 'Confirm each issue')
        assert machine.targets() == []
        confirm(tab, issues)
        tab.reads('#content table', TARGET)
        open_view(tab, 'kernel')
        tab.reads('#content table', f'Accepted for: {TARGET}')
        open_view(tab, '')
        # One that is switched on again is asked for again.
        tab.click(switch_of(TARGET))
        tab.reads('#content table', 'Off')
        tab.click(switch_of(TARGET))
        tab.reads('#adding', 'I accept')


def test_who_may_not_change_anything_looks_and_reads_why(machine: Machine, visit: Visit) -> None:
    machine.enable()
    machine.chatter()
    with visit(READER) as tab:
        tab.reads('#content table', TARGET)
        tab.click(switch_of(TARGET))
        tab.reads('#content .alert.danger', 'administrative access')
        begin_to_add(tab, 'system.slice')
        tab.reads('#adding-failed', 'administrative access')
        tab.press('Escape')
        tab.wait('!$("#adding").open')
        open_view(tab, 'connections')
        tab.reads('#no-programs', 'You do not see whose')
        tab.reads('#content table', '127.0.0.1:')
        assert 'python3' not in tab.text('#content table')
        assert not tab.evaluate('$("#filter-program").offsetParent')
    assert [row['name'] for row in machine.targets()] == [TARGET]


def test_a_daemon_that_was_stopped_stays_so_and_comes_back(machine: Machine, visit: Visit) -> None:
    machine.enable()
    with visit(ROOT_USER) as tab:
        tab.reads('#content table', TARGET)
        machine.run('systemctl', 'stop', 'sockaccel.service')
        tab.reads('#stopped', 'sockaccel is not running')
        # Somebody else opens the page.
        with visit(READER) as other:
            other.reads('#stopped', 'sockaccel is not running')
        assert machine.run('systemctl', 'is-active', 'sockaccel.service', check=False).stdout.strip() == 'inactive'
        machine.run('systemctl', 'start', 'sockaccel.service')
        tab.reads('#state', 'Running')
        tab.reads('#content table', TARGET)
        machine.run('systemctl', 'kill', '--signal=KILL', 'sockaccel.service')
        machine.run('sh', '-c', 'until sockaccelctl targets; do sleep 0.1; done')
        tab.reads('#state', 'Running')
        tab.reads('#content table', TARGET)


def test_what_others_change_is_seen_without_asking(machine: Machine, visit: Visit) -> None:
    with visit(ROOT_USER) as tab:
        tab.reads('#content', 'Nothing is accelerated yet')
        machine.control('enable', '--wait', *(f'--accept={issue}' for issue in machine.issues()), 'later.service')
        tab.reads('#content table', 'later.service')
        tab.reads('#content table', 'Waiting')
        # The reason for its state.
        (row,) = machine.targets()
        assert row['detail']
        tab.reads('#content table', row['detail'])


def test_a_page_that_nobody_sees_asks_nothing(machine: Machine, visit: Visit) -> None:
    machine.chatter()
    with visit(ROOT_USER) as tab:
        tab.reads('#content', 'Nothing is accelerated yet')
        with another_page(tab):
            tab.forget()
            machine.enable()
            # Where the page is visible, it asks what is different.
            wait_until(lambda: 'TargetChanged' in ''.join(tab.frames('Received')), 'the signal reaches the page')
            assert [frame for frame in tab.frames('Sent') if 'org.sockaccel1.Manager' in frame] == []
        tab.reads('#content table', TARGET)


def test_text_of_programs_is_text(machine: Machine, visit: Visit) -> None:
    evil = '/<img src=x onerror=alert(1)>'
    machine.run('mkdir', f'/sys/fs/cgroup{evil}')
    machine.shell('systemd-run --quiet --unit=evil.service --description="<b>bold</b>" sleep infinity')
    machine.enable(evil)
    with visit(ROOT_USER) as tab:
        tab.reads('#content table', evil)
        tab.click('#add')
        tab.wait('$("#units option[value=\\"evil.service\\"]")?.textContent === "<b>bold</b>"')
        assert tab.evaluate('page.document.querySelectorAll("#page img, #page b").length') == 0
    machine.control('disable', evil)
    machine.run('rmdir', f'/sys/fs/cgroup{evil}')
    machine.run('systemctl', 'stop', 'evil.service')


def test_what_runs_is_offered(machine: Machine, visit: Visit) -> None:
    """Services, slices, and the scopes in which containers are."""
    machine.chatter()
    container = 'libpod-0123456789ab.scope'
    machine.shell(
        f'systemd-run --quiet --scope --unit={container} sleep infinity >/dev/null 2>&1 & '
        f'until systemctl --quiet is-active {container}; do sleep 0.1; done'
    )
    with visit(READER) as tab:
        tab.click('#add')
        for unit in (TARGET, 'system.slice', container):
            tab.finds(f'#units option[value="{unit}"]')
        assert not tab.evaluate('$("#units option[value$=\\".mount\\"]")')
    machine.run('systemctl', 'stop', container)


def test_a_policy_is_shown_with_where_it_is_from(machine: Machine, visit: Visit) -> None:
    """What was set, and what a file says, of which the page names the file."""
    file = '/etc/sockaccel/sockaccel.conf.d/page.conf'
    machine.enable()
    machine.control('set', TARGET, 'ExcludePorts=22')
    accepted = ' '.join(machine.issues())
    section = f'[Target filed.service]\nIncludePorts=5432\nAcceptKernelIssues={accepted}\n'
    machine.shell(f"mkdir -p {file.rpartition('/')[0]}; printf '%s' '{section}' >{file}; sockaccelctl reload")
    try:
        with visit(READER) as tab:
            tab.reads('#content table', 'filed.service')
            tab.evaluate('page.document.querySelectorAll(".policy details").forEach(each => each.open = true)')
            tab.reads('#content table', 'ExcludePorts=22, set for this target')
            tab.reads('#content table', f'IncludePorts=5432, from {file}')
    finally:
        machine.shell(f'rm {file}; sockaccelctl reload')


@pytest.mark.usefixtures('mixed')
def test_reasons_are_sorted_and_say_what_to_do(visit: Visit) -> None:
    """Of two reasons the one that comes first by its name is the rarer one."""
    rows = 'Array.from($("#content section").querySelectorAll("tbody tr"))'
    with visit(ROOT_USER) as tab:
        open_view(tab, 'reasons')
        tab.choose('#reasons-target', MIXED)
        for reason, count in (('short', 5), ('excluded', 2)):
            tab.wait(rf'{rows}.some(row => /^{reason}\s.*\s{count}$/s.test(row.innerText.trim()))')
        found = tab.evaluate(f'{rows}.map(row => Array.from(row.cells, cell => cell.innerText))')
    counts = [int(count) for _reason, _advice, count in found]
    assert counts == sorted(counts, reverse=True)
    assert found[0][0].split()[0] == 'short'
    assert all(advice for _reason, advice, _count in found), found


def test_connections_come_and_go_while_somebody_looks(machine: Machine, visit: Visit) -> None:
    machine.enable()
    machine.chatter(3)
    with visit(ROOT_USER) as tab:
        open_view(tab, 'connections')
        tab.reads('#range', '1–3 of 3')
        machine.chatter(5)
        tab.reads('#range', '1–5 of 5')


def test_pages_and_filters_of_connections(machine: Machine, visit: Visit) -> None:
    machine.enable()
    machine.chatter(100)
    with visit(ROOT_USER) as tab:
        open_view(tab, 'connections')
        tab.reads('#range', '1–32 of 100')
        first = tab.text('#content tbody tr .address')
        tab.click('button[aria-label="Next page"]')
        tab.reads('#range', '33–64 of 100')
        assert tab.evaluate('page.document.querySelectorAll("#content tbody tr").length') == 32
        tab.choose('#filter-target', TARGET)
        tab.reads('#range', '1–32 of 100')
        tab.type('#filter-port', first.rpartition(':')[2])
        tab.press('Enter')
        tab.reads('#range', '1–1 of 1')
        tab.reads('#content tbody', first)
        tab.type('#filter-program', 'nobody')
        tab.press('Enter')
        tab.reads('#content', 'No connection of a target is like that')


@pytest.mark.usefixtures('mixed')
def test_connections_are_chosen_by_path_and_reason(machine: Machine, visit: Visit) -> None:
    machine.enable()
    machine.chatter(3)
    with visit(ROOT_USER) as tab:
        open_view(tab, 'connections')
        tab.reads('#range', 'of 5')
        tab.choose('#filter-path', 'tcp')
        tab.reads('#range', '1–2 of 2')
        tab.reads('#content tbody', 'excluded')
        tab.choose('#filter-path', 'redirect')
        tab.reads('#range', '1–3 of 3')
        tab.choose('#filter-path', '')
        tab.choose('#filter-reason', 'excluded')
        tab.reads('#range', '1–2 of 2')


def test_every_control_is_reached_by_the_keyboard(machine: Machine, visit: Visit) -> None:
    machine.enable()
    machine.chatter(40)
    with visit(ROOT_USER) as tab:
        for view in VIEWS:
            open_view(tab, view)
            tab.finds('#content tbody tr')
            if view == 'connections':
                tab.reads('#range', 'of 40')
            assert reached_by_tab(tab) == controls(tab), view


def test_everything_is_done_by_the_keyboard(machine: Machine, visit: Visit) -> None:
    machine.enable()
    with visit(ROOT_USER) as tab:
        tab.reads('#content table', TARGET)
        tab.evaluate('($("#add").focus(), 0)')
        tab.press('Enter')
        tab.wait('$("#adding").open && page.document.activeElement === $("#target")')
        tab.press('Escape')
        tab.wait('!$("#adding").open && page.document.activeElement === $("#add")')
        switch = json.dumps(switch_of(TARGET))
        for _ in range(3):
            tab.press('Tab')
            if tab.evaluate(f'page.document.activeElement === $({switch})'):
                break
        tab.press(' ')
        tab.wait(f'$({switch}).getAttribute("aria-checked") === "false"')
        # The row is another one now, and the focus still there.
        tab.wait(f'page.document.activeElement === $({switch})')
    assert [row for row in machine.targets() if row['state'] != 'draining'] == []


def test_a_screen_reader_finds_names(machine: Machine, visit: Visit) -> None:
    machine.enable()
    machine.chatter()
    with visit(ROOT_USER) as tab:
        for width in (1200, 400):
            tab.resize(width, 900)
            for view in VIEWS:
                open_view(tab, view)
                tab.finds('#content tbody tr')
                found = tab.accessible()
                roles = {role for role, _name in found}
                assert {'heading', 'link', 'button', 'table', 'row', 'columnheader', 'cell'} <= roles, (
                    width,
                    view,
                )
                assert [role for role, name in found if role in NAMED and not name] == [], (width, view)
        open_view(tab, '')
        assert ('switch', f'Accelerate {TARGET}') in tab.accessible()
        tab.click('#add')
        assert ('combobox', 'Service, container, slice or cgroup path') in tab.accessible()


def test_links_lead_to_the_unit_and_its_journal(machine: Machine, visit: Visit) -> None:
    """To sockaccel's, and to that of a target."""
    machine.chatter()
    machine.enable()
    with visit(ROOT_USER) as tab:
        page = tab.frame
        for found, place in (
            ('.links button:nth-child(1)', '/system/services#/sockaccel.service'),
            ('.links button:nth-child(2)', '/system/logs#/'),
            ('#content button.name', f'/system/services#/{TARGET}'),
        ):
            tab.click(found)
            tab.frame = 'window'
            tab.wait(f'(location.pathname + location.hash).startsWith({json.dumps(place)})')
            tab.click('a[href^="/sockaccel"]')
            tab.frame = page


def test_administrative_access_is_taken_up(machine: Machine, visit: Visit) -> None:
    """A user of sudo, who has it only after giving the password once more."""
    machine.enable()
    with visit(ADMIN) as tab:
        tab.reads('#content table', TARGET)
        become_administrator(tab)
        tab.click(switch_of(TARGET))
        tab.reads('#content table', 'Off')


def test_an_audit_says_what_acceleration_would_bring(machine: Machine, visit: Visit) -> None:
    machine.chatter()
    with visit(ROOT_USER) as tab:
        tab.click('#add')
        tab.type('#target', TARGET)
        tab.click('#audit')
        tab.reads('#report', 'Watching it')
        tab.reads('#report', 'python3 to python3')
        assert tab.evaluate('$("#adding").open')
        tab.type('#target', 'nosuch.service')
        tab.wait('$("#report").innerText === ""')
        tab.click('#audit')
        tab.reads('#audit-failed', 'nosuch.service')
    assert machine.targets() == []


def test_the_page_speaks_german(machine: Machine, release: Release, visit: Visit) -> None:
    """In the page, in Cockpit's menu, and in what a screen reader says; numbers are written so too."""
    machine.enable()
    machine.chatter(40)
    with visit(ROOT_USER, 'de') as tab:
        tab.wait(r'/\d\s%/.test($("#content table tbody").innerText)')
        tab.reads('h1', 'Lokale TCP-Beschleunigung')
        tab.reads('#state', 'Läuft')
        tab.reads('#content table', 'Aktiv')
        assert ('switch', f'{TARGET} beschleunigen') in tab.accessible()
        for view, title in zip(VIEWS, ('Überblick', 'Verbindungen', 'Nicht beschleunigt', 'Kernel'), strict=True):
            tab.reads(f'nav a[href="#/{view}"]', title)
        open_view(tab, 'connections')
        tab.reads('#range', '1–32 von 40')
        tab.reads('#content table', 'Umgeleitet')
        open_view(tab, 'reasons')
        tab.reads('#content', 'Was zu tun ist')
        tab.picture(OUTPUT / f'{release.name}-german.png')
        assert tab.evaluate('page.document.documentElement.lang') == 'de'
        tab.frame = 'window'
        tab.reads('a[href^="/sockaccel"]', 'Lokale TCP-Beschleunigung')
