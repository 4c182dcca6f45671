# SPDX-License-Identifier: GPL-2.0-or-later
from dbus_next import Variant as Variant

class SignatureTree:
    _cache: dict[str, SignatureTree]
    @staticmethod
    def _get(signature: str = '') -> SignatureTree: ...
