# SPDX-License-Identifier: GPL-2.0-or-later
"""MESSAGE_IDs of the journal lines that an administrator searches for or must act upon.

Each has an entry in packaging/catalog/sockaccel.catalog, which `journalctl -x` shows.
"""

READY = '99d0049b909542b585557128106e101b'
ENABLED = 'f5a9ff87754f491fb21f3fc1ab8ab84c'
DISABLED = '0a26f1dd9a8e4e90a4a4dda613019e2d'
POLICY_CHANGED = 'b5055eac687c4ae4a22b3f6067586a71'
KERNEL_ISSUE = 'e421c7455d1648618e662faeabfd298d'
CANNOT_GO_ON = 'd8d222ac95e5471cb4a3e3e8e8048686'
CONFIGURATION_RELOADED = '825681a0bc894eb5b6c0839dcad9d401'
CONFIGURATION_REJECTED = '7c833b87f4f9469281dd36f6b7a1d366'
MAP_FULL = '317d920cf84641d4b4a360ca1b93c8a8'
LISTENERS_FULL = '5b1c8f0f3a6d4c7e9d20a4f6b8e17c35'
EVENTS_LEFT_OUT = 'ec43cd115c5a43dbadf2c699e58d3047'
STREAM_BROKEN = '0cab000c20b945948d6708cedf90e978'
