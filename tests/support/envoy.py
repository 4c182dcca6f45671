# SPDX-License-Identifier: GPL-2.0-or-later
"""Envoy with the configuration of docs/sidecar.md. Its program comes from PyPI (tools/setup)."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import harness
from tests.support.led import OUTBOUND, Place

OPTIONS = (
    '--concurrency', '1', '--disable-hot-restart', '--use-dynamic-base-id', '--log-level', 'error',
)  # fmt: skip


def program() -> Path:
    """Fails the test where it is not installed."""
    found = list(Path(sys.prefix, 'lib').glob('python3*/site-packages/envoy/_bin/envoy'))
    if not found:
        pytest.fail('envoy is missing: run tools/setup apps')
    return found[0]


def configuration(listener: str, *, ipv6: bool = True) -> dict[str, Any]:
    """With one of the listeners of docs/sidecar.md, by its name. ipv6: whether there is ::1."""
    (text,) = re.findall(r'```json\n(.*?)```', (harness.ROOT / 'docs/sidecar.md').read_text(), re.DOTALL)
    config: dict[str, Any] = json.loads(text)
    resources = config['static_resources']
    resources['listeners'] = [each for each in resources['listeners'] if each['name'] == listener]
    if not ipv6:
        for each in resources['listeners']:
            del each['additional_addresses']
    return config


class Envoy:
    """It, in the proxy's cgroup, with one of the listeners of docs/sidecar.md, which is at this port."""

    def __init__(
        self, where: Place, directory: Path, listener: str = 'outbound', port: int = OUTBOUND, user: str = 'root'
    ) -> None:
        (directory / 'envoy.json').write_text(json.dumps(configuration(listener)))
        self._where = where
        self._port = port
        self._command = (
            'setpriv', f'--reuid={user}', str(program()), '--config-path', str(directory / 'envoy.json'), *OPTIONS,
        )  # fmt: skip
        self.start()

    def start(self) -> None:
        self.process: subprocess.Popen[bytes] = self._where.start(*self._command, of=self._where.proxy)
        harness.wait_until(self._listens, 'Envoy listens')

    def _listens(self) -> bool:
        """Told by the proxy's own cgroup, whose connections nobody leads."""
        for family, address in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):
            with self._where.make(family, of=self._where.proxy) as probe:
                if probe.connect_ex((address, self._port)):
                    return False
        return True

    def stop(self) -> None:
        harness.stop(self.process)
        assert self.process.stdout
        self.process.stdout.close()
