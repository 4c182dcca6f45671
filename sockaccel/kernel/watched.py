# SPDX-License-Identifier: GPL-2.0-or-later
"""The functions of the kernel that sockaccel watches, and whether this kernel lets it (bpf/watch.c).

What is imported here delays each cold start.
"""

import contextlib
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass

from sockaccel.kernel import libbpf
from sockaccel.kernel.libbpf import BPF_TRACE_FENTRY, BPF_TRACE_FEXIT, BPF_TRACE_ITER, BTF_KIND_FUNC, KernelTypes


@dataclass(frozen=True)
class Watcher:
    """function: of the kernel; at: an attach type. what: is not seen without it; '' for RECV_WATCHER.

    on_demand: attached only while candidates read in a way that it can tell; others while a target is enabled.
    """

    function: str
    at: int
    what: str = ''
    on_demand: bool = False


# By the name of the BPF program. tcp_bpf_ioctl() exists since 6.11; before, tcp_ioctl() serves members too.
RECV_WATCHER, WAIT_WATCHER = 'sockaccel_recv', 'sockaccel_wait'
ASK_WATCHERS = ('sockaccel_ask', 'sockaccel_ask_member')
SPLICE_WATCHER = 'sockaccel_splice'
# Those that see sockets which no target covers.
AUDIT_WATCHERS = (SPLICE_WATCHER, ASK_WATCHERS[0])
WATCHERS = {
    RECV_WATCHER: Watcher('tcp_bpf_recvmsg', BPF_TRACE_FEXIT),
    SPLICE_WATCHER: Watcher(
        'tcp_splice_read', BPF_TRACE_FENTRY, 'which programs mix recv() and splice(), which breaks a connection'
    ),
    ASK_WATCHERS[0]: Watcher('tcp_ioctl', BPF_TRACE_FENTRY, 'which programs ask FIONREAD'),
    ASK_WATCHERS[1]: Watcher('tcp_bpf_ioctl', BPF_TRACE_FENTRY, 'which programs ask FIONREAD'),
    'sockaccel_send': Watcher(
        'tcp_bpf_sendmsg', BPF_TRACE_FENTRY, 'which messages are sent with MSG_OOB, MSG_MORE or MSG_ZEROCOPY'
    ),
    'sockaccel_read': Watcher(
        'tcp_bpf_recvmsg', BPF_TRACE_FENTRY, 'which programs read with MSG_TRUNC, or wait with MSG_WAITALL'
    ),
    WAIT_WATCHER: Watcher(
        'tcp_recvmsg', BPF_TRACE_FENTRY,
        'which programs read without waiting although their sockets have no O_NONBLOCK; these stay with TCP',
        on_demand=True,
    ),
}  # fmt: skip
# No watcher, but loaded with them and for their sake: an iterator over TCP sockets, which calls a kernel function.
ABORTER, DESTROY = 'sockaccel_abort', 'bpf_sock_destroy'
KFUNC_DESTROY = 'KFUNC_sock_destroy'
_ABORT = Watcher('bpf_iter_tcp', BPF_TRACE_ITER)
# A BTF id that is no function's: a kernel that takes no program of this kind says so before it looks at the id.
NO_FUNCTION = 1


def defines(types: KernelTypes) -> dict[str, int]:
    """For each watched function that this kernel has, its BTF id and how many arguments it takes.

    Nothing where the kernel takes no such program: to look for the functions would take 10 ms of a cold start.
    The return value stands behind the arguments in what an fexit program gets. 7.3 has one argument less than
    6.18 in tcp_bpf_recvmsg().
    """
    if refusal(WATCHERS[RECV_WATCHER], NO_FUNCTION) != errno.EINVAL:
        return {}
    values = {}
    for function in {watcher.function for watcher in WATCHERS.values()}:
        try:
            found = types.find(function, BTF_KIND_FUNC)
        except KeyError:
            continue
        values[f'FUNCTION_{function}'] = found
        values[f'ARGUMENTS_{function}'] = types.argument_count(found)
    # Since 6.5.
    with contextlib.suppress(KeyError):
        walked = types.find(_ABORT.function, BTF_KIND_FUNC)
        values[KFUNC_DESTROY] = types.find(DESTROY, BTF_KIND_FUNC)
        values[f'FUNCTION_{_ABORT.function}'] = walked
    return values


def taken(values: Mapping[str, int]) -> dict[str, Watcher]:
    """The watchers that this kernel may take, by the name of the BPF program, and what aborts connections.

    values: what `defines` found.

    A program that does nothing is loaded and attached to find out whether it takes any.
    """
    there = {name: watcher for name, watcher in WATCHERS.items() if f'FUNCTION_{watcher.function}' in values}
    for watcher in there.values():
        if refusal(watcher, values[f'FUNCTION_{watcher.function}']):
            return {}
        return there | {ABORTER: _ABORT} if KFUNC_DESTROY in values else there
    return {}


def refusal(watcher: Watcher, function: int) -> int:
    """Load and attach a program that does nothing. Returns the errno of the kernel's refusal, 0 for none.

    function: the BTF id of what is watched.
    """
    try:
        program = libbpf.load_tracing(b'sockaccel_try', libbpf.NOTHING, watcher.at, function)
    except OSError as exc:
        return exc.errno or errno.EINVAL
    try:
        os.close(libbpf.attach_function(program, watcher.at))
    except OSError as exc:
        return exc.errno or errno.EINVAL
    finally:
        os.close(program)
    return 0
