# SPDX-License-Identifier: GPL-2.0-or-later
"""Containers of real engines. They want the packages of "tools/setup containers"."""
