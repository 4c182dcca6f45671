# SPDX-License-Identifier: GPL-2.0-or-later
"""What tools/setup installs for the tests."""

import shutil


def test_tools_are_there() -> None:
    for tool in (
        'clang-format',
        'shellcheck',
        'bpftool',
        'busctl',
        'iperf3',
        'dbus-daemon',
        'setpriv',
        'unshare',
        'mandoc',
        'zsh',
    ):
        assert shutil.which(tool), f'{tool} is missing: run tools/setup test'
