# SPDX-License-Identifier: GPL-2.0-or-later
"""sockaccel makes TCP between two processes of one host faster, and can be left on."""

__version__ = '0.1.0'
