# SPDX-License-Identifier: GPL-2.0-or-later
"""What sockaccel gains and costs, measured side by side with what a user would pick instead."""
