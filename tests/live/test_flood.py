# SPDX-License-Identifier: GPL-2.0-or-later
"""While others send calls as fast as the bus takes them, root's calls are answered. Nothing here is timed."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sockaccel.ctl.client import Client
from tests.support.flood import Flood
from tests.support.harness import ROOT, PrivateBus
from tests.support.patience import PATIENCE_S
from tests.support.surface import Surface

# Users that every system has: dbus-daemon wants to know them.
ROOT_UID, DAEMON, NOBODY = 0, 1, 65534


@pytest.fixture
def surface() -> Iterator[Surface]:
    with PrivateBus(), Surface(2000, dev=False) as surface:
        yield surface


async def _change_something() -> None:
    async with Client() as client:
        await client.call('Enable', 's', '/x')
        rows, total, _listing = await client.call('ListConnections', 'a{sv}tt', {}, 0, 0)
        assert (len(rows), total) == (256, 2000)
        assert rows[0]['client_program'] == 'psql'
        await client.call('Disable', 's', '/x')


def change_something() -> None:
    asyncio.run(asyncio.wait_for(_change_something(), PATIENCE_S))


@pytest.mark.parametrize(
    ('kind', 'users'),
    [
        ('stats', [NOBODY, NOBODY, ROOT_UID]),
        ('introspect', [NOBODY]),
        ('targets', [NOBODY]),
        ('garbage', [NOBODY]),
        ('change', [NOBODY]),
        ('answered', [NOBODY, DAEMON]),
    ],
)
def test_root_is_answered_while_the_flood_runs(surface: Surface, kind: str, users: list[int]) -> None:
    with contextlib.ExitStack() as stack:
        floods = [stack.enter_context(Flood(kind, user)) for user in users]
        for _again in range(3):
            change_something()
        assert all(flood.still_runs() for flood in floods)
    assert surface.process.poll() is None


def test_listings_lock_nobody_out(surface: Surface) -> None:
    """Eight clients of one user want listings without pause."""
    with contextlib.ExitStack() as stack:
        floods = [stack.enter_context(Flood('listings', NOBODY)) for _client in range(8)]
        for _again in range(3):
            change_something()
        assert all(flood.still_runs() for flood in floods)


def test_one_client_that_wants_too_much_is_told_which_limit(surface: Surface) -> None:
    script = (
        'import asyncio, os\n'
        'from sockaccel.ctl.client import Client, Refused\n'
        'async def main():\n'
        '    async with Client() as client:\n'
        '        calls = [client.call("ListConnections", "a{sv}tt", {}, 0, 0) for _ in range(20)]\n'
        '        calls += [client.call("Subscribe", "a{sv}", {}) for _ in range(20)]\n'
        '        for answer in await asyncio.gather(*calls, return_exceptions=True):\n'
        '            if isinstance(answer, Refused): print(answer)\n'
        # From here on, because a checkout may be for root alone.
        f'os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n'
        'asyncio.run(main())\n'
    )
    answer = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    said = answer.stdout.splitlines()
    listings = [line for line in said if 'as many listings in progress as a user may have (2)' in line]
    subscriptions = [line for line in said if 'as many subscriptions as a user may have (8)' in line]
    assert (len(listings) + len(subscriptions), len(subscriptions)) == (len(said), 12)
    change_something()
    logged = surface.stop()
    for what in ('listings in progress', 'subscriptions'):
        assert logged.count(f'as many {what} as a user may have') == bool(what == 'subscriptions' or listings)
