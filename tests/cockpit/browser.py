# SPDX-License-Identifier: GPL-2.0-or-later
"""Chromium without a window, driven by its DevTools protocol through a pair of pipes.

https://chromedevtools.github.io/devtools-protocol/ has the commands. Messages are JSON, each with a NUL behind it.
"""

import base64
import fcntl
import json
import os
import select
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self

from tests.support.harness import stop, wait_until
from tests.support.patience import PATIENCE_S

_OPTIONS = (
    '--headless=new', '--remote-debugging-pipe', '--no-sandbox', '--no-first-run', '--disable-gpu',
    '--disable-dev-shm-usage', '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--hide-scrollbars', '--force-color-profile=srgb', '--lang=en-US', 'about:blank',
)  # fmt: skip


# In the address of everything that belongs to the page.
OURS = '/sockaccel/'


class BrowserError(Exception):
    """A command of the protocol failed, or what a page was told to do threw an exception."""


class Browser:
    """A context manager. prefix: what runs the browser, such as nsenter with its options."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self._prefix = prefix
        self._numbers = count(1)
        self._unread = b''
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._home = tempfile.TemporaryDirectory(prefix='sockaccel-browser-', ignore_cleanup_errors=True)
        orders, self._to = os.pipe()
        self._from, answers = os.pipe()
        log = Path(self._home.name, 'log')
        # The browser reads from 3 and writes to 4, which are taken here, or will be.
        reads, writes = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (orders, answers))
        shell = f'exec "$@" 3<&{reads} 4>&{writes} {reads}<&- {writes}>&-'
        with log.open('w') as output:
            self._process = subprocess.Popen(
                [
                    *self._prefix, 'bash', '-c', shell, 'bash', 'chromium',
                    f'--user-data-dir={self._home.name}/profile', *_OPTIONS,
                ],
                env={**os.environ, 'HOME': self._home.name, 'LANG': 'C.UTF-8'},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(reads, writes),
            )  # fmt: skip
        for fd in (orders, answers, reads, writes):
            os.close(fd)
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            self.command('Browser.close')
        except (BrowserError, OSError):
            stop(self._process)
        self._process.wait(PATIENCE_S)
        os.close(self._to)
        os.close(self._from)
        self._home.cleanup()

    def command(self, method: str, session: str = '', /, **parameters: Any) -> dict[str, Any]:
        """What the browser answers. Raises BrowserError, OSError if it is gone."""
        number = next(self._numbers)
        message = {'id': number, 'method': method, 'params': parameters}
        if session:
            message['sessionId'] = session
        os.write(self._to, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._read()
            if answer.get('id') == number:
                break
            self.events.append(answer)
        if 'error' in answer:
            raise BrowserError(f'{method}: {answer["error"]["message"]}')
        result: dict[str, Any] = answer['result']
        return result

    def _read(self) -> dict[str, Any]:
        while b'\0' not in self._unread:
            readable, _, _ = select.select([self._from], [], [], PATIENCE_S)
            if not readable:
                raise BrowserError('the browser does not answer')
            some = os.read(self._from, 1 << 20)
            if not some:
                raise BrokenPipeError(f'the browser has ended: {Path(self._home.name, "log").read_text()[-2000:]}')
            self._unread += some
        message, _, self._unread = self._unread.partition(b'\0')
        read: dict[str, Any] = json.loads(message)
        return read

    @contextmanager
    def tab(self, width: int = 1200, height: int = 900) -> 'Iterator[Tab]':
        """A tab of a user of its own: no cookies of others."""
        context = self.command('Target.createBrowserContext')['browserContextId']
        target = self.command('Target.createTarget', url='about:blank', browserContextId=context)['targetId']
        session = self.command('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        tab = Tab(self, session, target)
        tab.resize(width, height)
        try:
            yield tab
        finally:
            self.command('Target.disposeBrowserContext', browserContextId=context)


class Tab:
    """What a person does with a page. `frame`: the window in which elements are found, in JavaScript."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.browser = browser
        self.session = session
        self.target = target
        self.frame = 'window'
        for domain in ('Page', 'Runtime', 'Log', 'Accessibility', 'Network'):
            self.command(f'{domain}.enable')

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.command(method, self.session, **parameters)

    def resize(self, width: int, height: int) -> None:
        self.command(
            'Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def prefer(self, scheme: str) -> None:
        """scheme: `light` or `dark`."""
        self.command('Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': scheme}])

    def go(self, address: str) -> None:
        self.command('Page.navigate', url=address)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, in which `page` is the frame's window and `$` finds an element there.

        Raises BrowserError for an exception.
        """
        code = f'(() => {{ const page = {self.frame}; const $ = found => page.document.querySelector(found); '
        code += f'return ({expression}); }})()'
        result = self.command('Runtime.evaluate', expression=code, returnByValue=True, awaitPromise=True)
        if 'exceptionDetails' in result:
            details = result['exceptionDetails']
            raise BrowserError(details.get('exception', {}).get('description', details['text']))
        return result['result'].get('value')

    def holds(self, expression: str) -> bool:
        """Whether it is true now; not while a page is loaded."""
        try:
            return bool(self.evaluate(f'Boolean({expression})'))
        except BrowserError:
            return False

    def wait(self, expression: str) -> None:
        """Until it is true. Raises AssertionError with what the page says then."""
        try:
            wait_until(lambda: self.holds(expression), expression)
        except AssertionError as exc:
            if not self.holds('page'):
                self.frame = 'window'
            raise AssertionError(f'{exc}; the page says: {self.text()}') from exc

    def text(self, selector: str = 'body') -> str:
        """What a person reads there, '' where nothing is."""
        return str(self.evaluate(f'$({json.dumps(selector)})?.innerText ?? ""'))

    def finds(self, selector: str) -> None:
        """Wait until there is such an element."""
        self.wait(f'$({json.dumps(selector)})')

    def reads(self, selector: str, text: str) -> None:
        """Wait until the text is in the element."""
        self.wait(f'$({json.dumps(selector)})?.innerText.includes({json.dumps(text)})')

    def click(self, selector: str) -> None:
        """With the mouse, once the element is there and can be clicked, and nothing is above it."""
        place = f"""(() => {{
            const found = $({json.dumps(selector)});
            if (!found || found.disabled) return null;
            found.scrollIntoView({{ block: 'center' }});
            const box = found.getBoundingClientRect();
            const x = box.x + box.width / 2, y = box.y + box.height / 2;
            const top = page.document.elementFromPoint(x, y);
            if (!top || !(found.contains(top) || top.contains(found))) return null;
            const frame = page.frameElement, outer = frame?.getBoundingClientRect() ?? {{ x: 0, y: 0 }};
            const place = [x + outer.x, y + outer.y];
            return !frame || document.elementFromPoint(...place) === frame ? place : null;
        }})()"""
        found: list[float] = []

        def there() -> bool:
            found[:] = (self.evaluate(place) if self.holds(place) else None) or []
            return bool(found)

        wait_until(there, f'{selector} can be clicked')
        x, y = found
        for kind in ('mousePressed', 'mouseReleased'):
            self.command('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """In place of what stands in a field."""
        self.finds(selector)
        self.evaluate(f'($({json.dumps(selector)}).focus(), $({json.dumps(selector)}).select())')
        self.command('Input.insertText', text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """A key by its name in JavaScript: Tab, Enter, Escape, ' '."""
        codes = {'Tab': 9, 'Enter': 13, 'Escape': 27, ' ': 32}
        text = {'Enter': '\r', ' ': ' '}.get(key, '')
        common = {'key': key, 'windowsVirtualKeyCode': codes[key], 'modifiers': 8 if shift else 0}
        self.command('Input.dispatchKeyEvent', type='keyDown' if text else 'rawKeyDown', text=text, **common)
        self.command('Input.dispatchKeyEvent', type='keyUp', **common)

    def choose(self, selector: str, value: str) -> None:
        """One of a list of choices."""
        found = f'$({json.dumps(selector)})'
        self.wait(f'{found} && Array.from({found}.options).some(each => each.value === {json.dumps(value)})')
        self.evaluate(
            f'({found}.value = {json.dumps(value)}, '
            f'{found}.dispatchEvent(new page.Event("change", {{ bubbles: true }})))'
        )

    def picture(self, path: Path) -> None:
        """A PNG of what is in sight."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.command('Page.captureScreenshot', format='png')['data']))

    def complaints(self) -> list[str]:
        """What went wrong in the pages: exceptions, errors on the console, what a policy forbade."""
        return [text for event in self._events() if (text := _complaint(event))]

    def frames(self, way: str) -> list[str]:
        """What the pages exchanged with the server by a WebSocket. way: `Sent` or `Received`."""
        method = f'Network.webSocketFrame{way}'
        return [
            event['params']['response']['payloadData'] for event in self._events() if event['method'] == method
        ]

    def forget(self) -> None:
        """What `complaints` and `frames` would tell until now."""
        self._events()
        self.browser.events.clear()

    def _events(self) -> list[dict[str, Any]]:
        # What was told before the answer has been read with it.
        self.command('Runtime.evaluate', expression='0')
        return [event for event in self.browser.events if event.get('sessionId') == self.session]

    def accessible(self) -> list[tuple[str, str]]:
        """Role and name of what a screen reader finds in the frame."""
        frames = self.command('Page.getFrameTree')['frameTree']
        inner = [child['frame']['id'] for child in frames.get('childFrames', []) if OURS in child['frame']['url']]
        nodes = self.command('Accessibility.getFullAXTree', frameId=inner[0])['nodes']
        return [
            (node['role']['value'], node.get('name', {}).get('value', '').strip())
            for node in nodes
            if not node['ignored']
        ]


def _complaint(event: dict[str, Any]) -> str:
    """'' for an event that is none."""
    told = event['params']
    if event['method'] == 'Runtime.exceptionThrown':
        return json.dumps(told['exceptionDetails'])
    if event['method'] == 'Log.entryAdded' and told['entry']['level'] == 'error':
        entry = told['entry']
        # What Cockpit itself does not find, such as a font of its shell, is not ours.
        if entry['source'] == 'network' and OURS not in entry.get('url', ''):
            return ''
        return f'{entry["text"]} {entry.get("url", "")}'
    if event['method'] == 'Runtime.consoleAPICalled' and told['type'] in ('error', 'assert'):
        return ' '.join(str(each.get('value', each.get('description'))) for each in told['args'])
    return ''
