# SPDX-License-Identifier: GPL-2.0-or-later
"""How this package starts one of its own modules as a process, so that nobody else's code can get into it."""

import json
import sys

# The working directory of each child: root's, in which nobody else can put anything.
DIRECTORY = '/'
_START = 'import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from {} import main; sys.exit(main())'


def command(module: str, *arguments: str) -> list[str]:
    """A command line that calls main() of a module; sys.argv[1:] are the arguments.

    `python3 -m` would look for modules in the working directory first. -I does not, and ignores the user's
    site-packages, $PYTHONPATH and its like too. The child imports from where this process does, to which whoever
    started it has agreed.
    """
    path = [directory for directory in sys.path if directory.startswith('/')]
    return [sys.executable, '-I', '-c', _START.format(module), json.dumps(path), *arguments]
