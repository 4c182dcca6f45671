# SPDX-License-Identifier: GPL-2.0-or-later
"""The program `sockaccel`: `python3 -m sockaccel` is the daemon."""

import sockaccel.unneeded  # noqa: F401

# isort: split
import sys

from sockaccel.daemon import main

if __name__ == '__main__':
    sys.exit(main())
