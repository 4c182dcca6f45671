# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of a guest in build/kernels, and why it did not pass."""

import json
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


def boot(kernel: Kernel, name: str, job: Path, script: str, seconds: float, **root: Any) -> Report:
    """Run a script in a guest. name: of what is left in build/kernels. root: see `guest.run`."""
    (job / 'run').write_text(script)
    (job / 'run').chmod(0o755)
    report = guest.run(kernel, job, seconds, **root)
    output = OUTPUT / name
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
