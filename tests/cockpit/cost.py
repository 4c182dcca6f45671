# SPDX-License-Identifier: GPL-2.0-or-later
"""What a page that is open costs the daemon, as a figure: python -m tests.cockpit.cost [CONNECTIONS [SECONDS]].

It takes the packages that the last run of the tests has built.
"""

import os
import sys
import time

from tests.cockpit.browser import Browser
from tests.cockpit.conftest import OUTPUT
from tests.cockpit.machine import PACKAGES, ROOT_USER, Machine
from tests.cockpit.person import another_page, log_in, open_view
from tests.system import roots

VIEWS = {'': 'the overview', 'connections': 'the connections', 'reasons': 'the reasons'}


def share(machine: Machine, seconds: float) -> float:
    """Of one CPU that the daemon used in some seconds from now on, in %."""
    before, begun = machine.cpu_us(), time.monotonic()
    time.sleep(seconds)
    return (machine.cpu_us() - before) / 1e4 / (time.monotonic() - begun)


def main() -> None:
    connections = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    for release in roots.RELEASES:
        root, built = roots.root(release, 'cockpit', PACKAGES), OUTPUT / 'packages' / release.name
        with Machine(root, {'/out': built}) as machine, Browser(machine.in_network()) as browser:
            machine.install()
            machine.enable()
            machine.chatter(connections)
            with browser.tab() as tab:
                log_in(tab, ROOT_USER)
                open_view(tab, 'connections')
                tab.reads('#range', f'of {connections:,}')
                with another_page(tab):
                    found = {'nobody sees it': share(machine, seconds)}
                for view, name in VIEWS.items():
                    open_view(tab, view)
                    # By then it has found out how long an answer takes.
                    time.sleep(10)
                    found[f'somebody sees {name}'] = share(machine, seconds)
        for name, value in found.items():
            load = os.getloadavg()[0]
            print(f'{release.name}: {connections} connections, {name}: {value:.2f} % of a CPU (load {load:.1f})')


if __name__ == '__main__':
    main()
