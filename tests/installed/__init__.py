# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the installed package on a machine that a real systemd runs: units, the journal, polkit, restarts.

They start and stop services, and belong on a machine that is there for them: `make test-system`, autopkgtest.
"""
