# SPDX-License-Identifier: GPL-2.0-or-later
"""Which parts of a reader's socket the verdict copies at once, as -D options (bpf/lib/view.h)."""

from collections.abc import Mapping

# Name in the BPF sources (offsets.py): bytes to copy.
VIEWED = {
    'sock_cookie': 8,
    'sock_flags': 8,
    'sock_bound_dev_if': 4,
    'sock_peek_off': 4,
    'sock_rmem_alloc': 4,
    'sock_userlocks': 1,
    'sock_rcvbuf': 4,
    'sock_filter': 8,
    'sock_rcvlowat': 4,
    'sock_policy': 8,
    'sock_policy_out': 8,
    'sock_forward_alloc': 4,
    'sock_tsflags': 2,
    'sock_mark': 4,
    'sock_cgroup': 8,
    'sock_ulp': 8,
    'sock_psp': 8,
    'inet_pinet6': 8,
    'inet_min_ttl': 1,
    'tcp_sock_repair': 1,
    'tcp_sock_recvmsg_inq': 1,
    'tcp_sock_copied_seq': 4,
    'tcp_sock_md5': 8,
    'tcp_sock_ao': 8,
}
# Bytes; to copy as many that nobody needs takes about as long as another call.
_GAP = 64
# Bytes that find room on the stack of the verdict beside all else, of 512.
SIZE = 320


def defines(offsets: Mapping[str, int]) -> dict[str, int]:
    """offsets: of the fields that this kernel has, in bytes.

    Gives VIEW_<field>, the field's place in the copy; VIEW_FROM_, VIEW_BYTES_ and VIEW_TO_<n> of each block; and
    VIEW_SIZE. All blocks begin and end at multiples of 8, as the copy's parts do.
    """
    for gap in range(_GAP, -1, -8):
        blocks = _blocks(offsets, gap)
        if sum(end - start for start, end in blocks) <= SIZE:
            break
    values: dict[str, int] = {}
    size = 0
    for number, (start, end) in enumerate(blocks):
        values |= {f'VIEW_FROM_{number}': start, f'VIEW_BYTES_{number}': end - start, f'VIEW_TO_{number}': size}
        for name, offset in offsets.items():
            if name in VIEWED and start <= offset < end:
                values[f'VIEW_{name}'] = size + offset - start
        size += end - start
    return values | {'VIEW_SIZE': size}


def _blocks(offsets: Mapping[str, int], gap: int) -> list[tuple[int, int]]:
    """Start and end of each, where what is at most `gap` bytes apart is one block."""
    blocks: list[tuple[int, int]] = []
    for offset, size in sorted((offsets[name], size) for name, size in VIEWED.items() if name in offsets):
        start, end = offset & ~7, (offset + size + 7) & ~7
        if blocks and start - blocks[-1][1] <= gap:
            blocks[-1] = (blocks[-1][0], max(end, blocks[-1][1]))
        else:
            blocks.append((start, end))
    return blocks
