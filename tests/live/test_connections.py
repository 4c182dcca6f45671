# SPDX-License-Identifier: GPL-2.0-or-later
"""The list of connections as the kernel prints it, in several parts."""

import contextlib
import json
import resource

from dbus_next import Variant

from sockaccel.kernel.abi import MAX_LISTED
from tests.support import harness, traffic
from tests.support.harness import Cgroup


def test_a_listing_of_several_parts_has_each_connection_once(target: Cgroup) -> None:
    number = MAX_LISTED + 10
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2 * number + 1000, before[1]), before[1]))
    try:
        with contextlib.ExitStack() as stack:
            with target.inside(), traffic.listen() as listener:
                pairs = [stack.enter_context(contextlib.closing(traffic.connect(listener))) for _ in range(number)]
                port = listener.getsockname()[1]
            rows = harness.connections(port=Variant('q', port))
            assert len(rows) == number
            assert all(row['client_port'] and row['server_port'] == port for row in rows), rows[0]
            assert {row['client_port'] for row in rows} == {traffic.ports(made.client)[0] for made in pairs}
            streamed = json.loads(harness.control('connections', '--json', '--limit=0', f'--port={port}').stdout)
            # All but what changes meanwhile.
            changing = {'age_ns', 'path', 'waiting_for_heartbeat'}
            changing |= {f'{prefix}{key}' for prefix in ('', 'client_', 'server_') for key in ('state', 'reason')}
            keys = rows[0].keys() - changing
            found, expected = (
                {tuple(row[key] for key in sorted(keys)) for row in each} for each in (streamed, rows)
            )
            assert len(streamed) == number
            assert found == expected
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
