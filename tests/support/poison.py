# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory, and an environment, in which others have put modules for root's Python to run."""

import os
import sys
from pathlib import Path

# What any program imports, what the package imports early, the package itself, and what Python runs by itself.
_MODULES = (
    'json', 'socket', 'asyncio', 'struct', 'argparse', 'structlog', 'dbus_next', 'bcc', 'sitecustomize',
    'usercustomize', 'sockaccel/__init__', 'sockaccel/daemon', 'sockaccel/kernel/loader', 'sockaccel/ctl/bench',
)  # fmt: skip


class Poison:
    """directory: where a program is started. environment: of the program; it names the directory wherever it can.

    Whichever of the modules is run leaves its name, which `taken()` returns.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._marks = directory / 'taken'
        self._marks.mkdir(parents=True)
        # As the user's own site-packages, where $PYTHONUSERBASE says that they are.
        version = f'python{sys.version_info.major}.{sys.version_info.minor}'
        user = directory / 'lib' / version / 'site-packages'
        for place in (directory, user):
            for name in _MODULES:
                self._write(place / f'{name}.py')
        (user / 'poison.pth').write_text('import usercustomize\n')
        self._write(directory / 'startup.py')
        self.environment = {
            **os.environ,
            'PYTHONPATH': str(directory),
            'PYTHONSTARTUP': str(directory / 'startup.py'),
            'PYTHONHOME': str(directory),
            'PYTHONUSERBASE': str(directory),
            'PYTHONPYCACHEPREFIX': str(directory / 'bytecode'),
            'PYTHONPLATLIBDIR': str(directory),
            'PYTHONBREAKPOINT': 'json.loads',
            'PYTHONWARNINGS': 'error::json.Warning',
            'PYTHONINSPECT': '1',
            'HOME': str(directory),
        }

    def taken(self) -> list[str]:
        """What was run, or left by a Python that obeyed the environment."""
        left = [str(path.relative_to(self.directory)) for path in self.directory.rglob('*.pyc')]
        return sorted([*left, *(path.name for path in self._marks.iterdir())])

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        mark = self._marks / str(path.relative_to(self.directory)).replace('/', '-')
        path.write_text(f'open({str(mark)!r}, "w").close()\n')
