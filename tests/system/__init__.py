# SPDX-License-Identifier: GPL-2.0-or-later
"""The package in whole machines, by a real systemd: containers of Debian releases, on the running kernel."""
