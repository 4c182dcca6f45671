# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person does in Cockpit, whatever its version."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.cockpit.browser import Tab
from tests.cockpit.machine import ADDRESS, PASSWORD

PAGE = 'document.querySelector("iframe[name=\'cockpit1:localhost/sockaccel\']")?.contentWindow'


def log_in(tab: Tab, user: str) -> None:
    """From Cockpit's front door to the page; `tab` finds the elements of the page from then on."""
    tab.go(f'{ADDRESS}/sockaccel')
    tab.wait('page.document.readyState === "complete" && $("#login-user-input")?.offsetParent')
    # That nobody has logged in yet, Cockpit learns from an answer that the browser counts as an error.
    tab.forget()
    tab.type('#login-user-input', user)
    tab.type('#login-password-input', PASSWORD)
    tab.click('#login-button')
    tab.frame = PAGE
    tab.wait('$("#state")?.innerText')


def open_view(tab: Tab, name: str) -> None:
    """name: as in the address, '' for the overview."""
    tab.click(f'nav a[href="#/{name}"]')
    tab.wait(f'$("nav a[aria-current]").getAttribute("href") === "#/{name}"')


def begin_to_add(tab: Tab, target: str) -> None:
    """Fill the dialog that adds a target, and submit it."""
    tab.click('#add')
    tab.type('#target', target)
    tab.click('#adding button[type=submit]')


def confirm(tab: Tab, issues: list[str]) -> None:
    """Accept each issue of the kernel in the dialog that adds a target."""
    for issue in issues:
        tab.click(f'#accept-{issue}')
    tab.click('#adding button[type=submit]')


def add(tab: Tab, target: str, issues: list[str]) -> None:
    """Add a target, and confirm each issue of the kernel."""
    begin_to_add(tab, target)
    if issues:
        confirm(tab, issues)
    tab.wait('!$("#adding").open')


@contextmanager
def another_page(tab: Tab) -> Iterator[None]:
    """Look at another page of Cockpit meanwhile."""
    page = tab.frame
    tab.frame = 'window'
    tab.click('a[href^="/system"]')
    tab.wait(f'{page}.cockpit.hidden')
    yield
    tab.click('a[href^="/sockaccel"]')
    tab.frame = page
    tab.wait('!page.cockpit.hidden')


def become_administrator(tab: Tab) -> None:
    """Turn on administrative access, by the menu of Cockpit, which loads the page anew then."""
    page = tab.frame
    tab.evaluate('(page.isFormer = true)')
    tab.frame = 'window'
    tab.click('#super-user-indicator button')
    tab.type('[role=dialog] input[type=password]', PASSWORD)
    tab.click('[role=dialog] button.pf-m-primary')
    tab.reads('#super-user-indicator', 'Administrative access')
    tab.wait('!$("[role=dialog]")')
    tab.frame = page
    tab.wait('!page.isFormer && $("#state")?.innerText')


def speak(tab: Tab, language: str) -> None:
    """Choose the language of Cockpit, as its menu does, before anything of it is loaded."""
    tab.command('Network.setCookie', name='CockpitLang', value=language, url=ADDRESS)


def switch_of(target: str) -> str:
    return f'button[role=switch][aria-label="Accelerate {target}"]'
