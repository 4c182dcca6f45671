# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that nobody here wrote, plain and accelerated: the same results, and redirected bytes to prove it."""
