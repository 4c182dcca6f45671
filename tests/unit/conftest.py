# SPDX-License-Identifier: GPL-2.0-or-later
"""A property holds however slow the machine is."""

from hypothesis import settings

settings.register_profile('patient', deadline=None)
settings.load_profile('patient')
