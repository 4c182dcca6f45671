# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue, one module for each part of the socket interface."""
