# SPDX-License-Identifier: GPL-2.0-or-later
"""The one limit of every wait for something that must happen.

No test says how fast the machine is: that is what benchmarks measure. What must not happen is proven by something
that comes after it, and not by waiting for a while.
"""

import os

# How many times slower than bare metal the machine is; the kernel matrix, which emulates it, says 40.
SLOWER = max(1.0, float(os.environ.get('SOCKACCEL_SLOWER', '1')))
# Seconds. Far more than anything takes on a machine that is busy with something else: what has not happened then
# never does. $SOCKACCEL_PATIENCE is for those who expect just that.
PATIENCE_S = float(os.environ.get('SOCKACCEL_PATIENCE', '120')) * max(1.0, SLOWER / 20)
# Seconds, for whole programs of other people: builds, package managers, test suites.
LONG_S = 15 * PATIENCE_S
# Seconds after which a test that was stopped because it took too long (pytest-timeout) is stopped again, where its
# end hangs too.
STRIKE_AGAIN_S = 2 * PATIENCE_S
