# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with Cockpit, sockaccel and its page, three people who log in, and a service with traffic."""

import json
from typing import Any, Self

from tests.system.container import Container

PACKAGES = ('cockpit-bridge', 'cockpit-system', 'cockpit-ws', 'libpam-systemd', 'sudo')
ADDRESS = 'http://127.0.0.1:9090'
# root is a user of Cockpit like others here; "admin" may become root by sudo; "reader" may not.
ADMIN, READER, ROOT_USER = 'admin', 'reader', 'root'
PASSWORD = 'correct horse'
TARGET = 'chatter.service'

# A server and a client that exchange small messages over connections that stay open, event-driven as programs are
# that sockaccel accelerates by itself. argv: how many connections.
_CHATTER = """
import asyncio, sys
async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
async def talk(port, seconds):
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    while True:
        writer.write(b'x' * 512)
        await reader.readexactly(512)
        await asyncio.sleep(seconds)
async def main(many):
    server = await asyncio.start_server(echo, '127.0.0.1', 0, backlog=many)
    port = server.sockets[0].getsockname()[1]
    async with asyncio.TaskGroup() as group:
        for number in range(many):
            group.create_task(talk(port, many / 200))
asyncio.run(main(int(sys.argv[1])))
"""


class Machine(Container):
    """A context manager, as Container is."""

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _prepare(self) -> None:
        # Debian's Cockpit does not let root in.
        self.shell(f"""
            sed -i '/^root$/d' /etc/cockpit/disallowed-users
            for user in {ADMIN} {READER}; do useradd --create-home --shell /bin/bash "$user"; done
            usermod --append --groups sudo {ADMIN}
            printf '%s:{PASSWORD}\\n' root {ADMIN} {READER} | chpasswd
            systemctl start cockpit.socket
        """)

    def shell(self, script: str) -> str:
        """What it prints. Raises AssertionError if a command of it fails."""
        return self.run('sh', '-euc', script).stdout

    def install(self) -> None:
        """The two packages in /out."""
        self.run('sh', '-euc', 'dpkg --install /out/sockaccel_*.deb /out/sockaccel-cockpit_*.deb')
        self.run('systemctl', 'enable', '--now', 'sockaccel.service')

    def reset(self) -> None:
        """As it was after install()."""
        self.run('systemctl', 'stop', TARGET, check=False)
        self.run('systemctl', 'start', 'sockaccel.service')
        for row in self.targets():
            if row['state'] != 'draining':
                self.control('disable', row['name'])

    def chatter(self, connections: int = 4) -> None:
        """Start the service with traffic. Its connections are new."""
        self.run('sh', '-euc', f"cat >/run/chatter.py <<'END'\n{_CHATTER}\nEND")
        self.run('systemctl', 'stop', TARGET, check=False)
        self.run(
            'systemd-run', '--quiet', f'--unit={TARGET}', '--collect', '--property=LimitNOFILE=65536',
            'python3', '/run/chatter.py', str(connections),
        )  # fmt: skip

    def control(self, *arguments: str) -> str:
        """What sockaccelctl prints, as root."""
        return self.run('sockaccelctl', *arguments).stdout

    def enable(self, target: str = TARGET) -> None:
        """In spite of what this kernel does, and whether it exists or not."""
        self.control('enable', '--wait', *(f'--accept={issue}' for issue in self.issues()), target)

    def refusal(self, target: str) -> str:
        """What the daemon says to root who enables a target, in spite of all issues of the kernel."""
        issues = self.issues()
        said = self.run(
            'busctl', 'call', 'org.sockaccel1', '/org/sockaccel1', 'org.sockaccel1.Manager', 'EnableWithOptions',
            'sa{sv}', target, '1', 'AcceptKernelIssues', 'as', str(len(issues)), *issues,
            check=False,
        )  # fmt: skip
        assert said.returncode, said.stdout
        return said.stdout.strip().removeprefix('Call failed: ')

    def issues(self) -> list[str]:
        """The names of this kernel's issues."""
        rows = json.loads(self.run('sockaccelctl', 'doctor', '--json', check=False).stdout)
        return [row['name'] for row in rows if row['severity'] == 'issue']

    def targets(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.control('targets', '--json'))
        return rows

    def in_network(self) -> list[str]:
        """What runs a command of the host in the machine's network."""
        return ['nsenter', f'--target={self.leader}', '--net', '--']

    def cpu_us(self) -> int:
        """The CPU time of the daemon so far, of its cgroup, in microseconds."""
        text = self.run('cat', '/sys/fs/cgroup/system.slice/sockaccel.service/cpu.stat').stdout
        return int(dict(line.split() for line in text.splitlines())['usage_usec'])
