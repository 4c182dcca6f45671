# SPDX-License-Identifier: GPL-2.0-or-later
"""To be imported before everything else: what the programs of this package have no use for is not loaded.

asyncio, hashlib and dbus-next import OpenSSL and GObject where they are installed, and do without elsewhere. They
take 8 MB and 30 ms of each start. None makes their import fail.
"""

import sys
from typing import Any

_modules: dict[str, Any] = vars(sys)['modules']
for _name in ('ssl', '_hashlib', 'gi'):
    _modules.setdefault(_name, None)
