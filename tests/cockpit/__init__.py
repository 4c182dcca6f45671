# SPDX-License-Identifier: GPL-2.0-or-later
"""The page for Cockpit, in a real browser, on machines of Debian releases."""
