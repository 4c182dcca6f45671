# SPDX-License-Identifier: GPL-2.0-or-later
"""`python3 -m sockaccel` is the daemon."""

import sys

from sockaccel.daemon import main

if __name__ == '__main__':
    sys.exit(main())
