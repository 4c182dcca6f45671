# SPDX-License-Identifier: GPL-2.0-or-later
"""The program `sockaccel`: `python3 -m sockaccel` is the daemon."""

import sys
from typing import Any

# What asyncio, hashlib and dbus-next import where it is installed, and do without elsewhere: OpenSSL and GObject,
# for which the daemon has no use. They take 8 MB and 30 ms of each start. None makes their import fail.
_modules: dict[str, Any] = vars(sys)['modules']
for _name in ('ssl', '_hashlib', 'gi'):
    _modules.setdefault(_name, None)

from sockaccel.daemon import main  # noqa: E402

if __name__ == '__main__':
    sys.exit(main())
