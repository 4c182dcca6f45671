# SPDX-License-Identifier: GPL-2.0-or-later
"""The exit status of sockaccelctl, as sockaccelctl(1) has it."""

EX_OK, EX_REFUSED, EX_USAGE, EX_NOT_RUNNING, EX_NOT_PERMITTED = 0, 1, 2, 3, 4
