# SPDX-License-Identifier: GPL-2.0-or-later
"""How a guest's job begins, what is kept of it in build/kernels, and why it did not pass."""

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from tests.kernels import guest
from tests.kernels.archive import Kernel
from tests.kernels.guest import Report
from tests.support.harness import ROOT
from tests.support.patience import LONG_S

OUTPUT = ROOT / 'build' / 'kernels'
# A guest is ten times slower than the machine, or twenty where others use that too: everything takes a quarter of
# an hour, or half of one.
EVERYTHING_S = 2 * LONG_S
# Of the tests of a job only those that this chooses, as pytest's option -k does it; '' for all.
CHOSEN = os.environ.get('SOCKACCEL_GUEST_CHOSEN', '')
# What comes before the script of a job, which has `pytest` as a command then.
_BEGIN = f"""\
#!/bin/sh
mkdir -p /run/results
# Debian would make the index of all manual pages anew, which takes minutes there.
rm -f /var/lib/man-db/auto-update
dpkg --install sockaccel.deb || exit 1
export SOCKACCEL_SLOWER=40
chosen={shlex.quote(CHOSEN)}
pytest() {{
    python3 -m pytest -p no:cacheprovider --timeout=1800 --verbose --color=no --durations=10 \\
        "$@" ${{chosen:+-k "$chosen"}}
    status=$?
    # That nothing of these files was chosen is no failure.
    [ "$chosen" ] && [ $status = 5 ] || return $status
}}
"""


def boot(kernel: Kernel, name: str, job: Path, script: str, seconds: float, **root: Any) -> Report:
    """Install the package in a guest and run a script there.

    name: of what is left in build/kernels; a choice of the tests is kept beside it. root: see `guest.run`.
    """
    (job / 'run').write_text(_BEGIN + script)
    (job / 'run').chmod(0o755)
    report = guest.run(kernel, job, seconds, **root)
    output = OUTPUT / (f'{name}-chosen' if CHOSEN else name)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    for name, text in report.files.items():
        (output / name).write_text(text)
    (output / 'said').write_text(report.said)
    (output / 'console').write_text(report.console)
    summary = {'release': kernel.release, 'version': kernel.version, 'outcome': report.outcome.value}
    (output / 'summary.json').write_text(json.dumps(summary))
    return report


def verdict(report: Report) -> str:
    """Why it is not a pass: the kernel's own complaints, or the end of what the job said."""
    complaints = guest.complaints(report.console + report.files.get('dmesg', ''))
    return '\n'.join([report.outcome.value, *complaints, report.said[-6000:], report.console[-1000:]])
