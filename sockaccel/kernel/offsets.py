# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the running kernel keeps what the BPF programs read, as -D options for the compiler (bpf/lib/kernel.h)."""

import contextlib
import os
from dataclasses import dataclass

from sockaccel.errors import LoaderEnded, UnsupportedKernel
from sockaccel.kernel import view, watched
from sockaccel.kernel.libbpf import BTF_KIND_ENUM, BTF_KIND_FUNC, BTF_KIND_STRUCT, BTF_KIND_UNION, KernelTypes

# Name in the BPF sources: structure, path of members. The programs read members of sock and tcp_sock by the same
# pointer, since a tcp_sock begins with its sock (include/linux/tcp.h).
FIELDS = {
    'sock_state': ('sock', '__sk_common.skc_state'),
    'sock_family': ('sock', '__sk_common.skc_family'),
    'sock_num': ('sock', '__sk_common.skc_num'),
    'inet_sport': ('inet_sock', 'inet_sport'),
    'sock_net': ('sock', '__sk_common.skc_net.net'),
    'sock_cookie': ('sock', '__sk_common.skc_cookie'),
    'sock_arrived_by': ('sock', 'sk_rx_dst_ifindex'),
    'sock_rcv_saddr': ('sock', '__sk_common.skc_rcv_saddr'),
    'sock_v6_rcv_saddr': ('sock', '__sk_common.skc_v6_rcv_saddr'),
    'sock_daddr': ('sock', '__sk_common.skc_daddr'),
    'sock_v6_daddr': ('sock', '__sk_common.skc_v6_daddr'),
    'sock_dport': ('sock', '__sk_common.skc_dport'),
    'sock_protocol': ('sock', 'sk_protocol'),
    'sock_rmem_alloc': ('sock', 'sk_backlog.rmem_alloc'),
    'sock_rcvbuf': ('sock', 'sk_rcvbuf'),
    'sock_userlocks': ('sock', 'sk_userlocks'),
    'sock_rcvlowat': ('sock', 'sk_rcvlowat'),
    'sock_peek_off': ('sock', 'sk_peek_off'),
    'sock_forward_alloc': ('sock', 'sk_forward_alloc'),
    'sock_prot': ('sock', '__sk_common.skc_prot'),
    'proto_memory_pressure': ('proto', 'memory_pressure'),
    'sock_flags': ('sock', '__sk_common.skc_flags'),
    'sock_kern_sock': ('sock', 'sk_kern_sock'),
    'sock_user_data': ('sock', 'sk_user_data'),
    'sock_lock_owned': ('sock', 'sk_lock.owned'),
    'sock_wq': ('sock', 'sk_wq'),
    'socket_wq_waiters': ('socket_wq', 'wait.head'),
    'sock_socket': ('sock', 'sk_socket'),
    'sock_uid': ('sock', 'sk_uid'),
    'sock_cgroup': ('sock', 'sk_cgrp_data.cgroup'),
    'sock_ulp': ('inet_connection_sock', 'icsk_ulp_ops'),
    'tcp_sock_write_seq': ('tcp_sock', 'write_seq'),
    'tcp_sock_copied_seq': ('tcp_sock', 'copied_seq'),
    'tcp_sock_rcv_nxt': ('tcp_sock', 'rcv_nxt'),
    'tcp_sock_snd_una': ('tcp_sock', 'snd_una'),
    'tcp_sock_fastopen_request': ('tcp_sock', 'fastopen_rsk'),
    'tcp_sock_rcv_wnd': ('tcp_sock', 'rcv_wnd'),
    'tcp_sock_rcv_wup': ('tcp_sock', 'rcv_wup'),
    'tcp_sock_nonagle': ('tcp_sock', 'nonagle'),
    'tcp_sock_repair': ('tcp_sock', 'repair'),
    'socket_file': ('socket', 'file'),
    'socket_sk': ('socket', 'sk'),
    'file_flags': ('file', 'f_flags'),
    'net_cookie': ('net', 'net_cookie'),
    'net_user_ns': ('net', 'user_ns'),
    'net_tcp_rmem': ('net', 'ipv4.sysctl_tcp_rmem'),
    'cgroup_level': ('cgroup', 'level'),
    'cgroup_kn': ('cgroup', 'kn'),
    'cgroup_ancestors': ('cgroup', 'ancestors'),
    'kernfs_node_id': ('kernfs_node', 'id'),
    'psock_refcnt': ('sk_psock', 'refcnt'),
    'psock_ingress_msg': ('sk_psock', 'ingress_msg'),
    'sock_filter': ('sock', 'sk_filter'),
    'sock_mark': ('sock', 'sk_mark'),
    'sock_bound_dev_if': ('sock', '__sk_common.skc_bound_dev_if'),
    'sock_tsflags': ('sock', 'sk_tsflags'),
    'sock_max_pacing_rate': ('sock', 'sk_max_pacing_rate'),
    'inet_opt': ('inet_sock', 'inet_opt'),
    'inet_min_ttl': ('inet_sock', 'min_ttl'),
    'tcp_sock_tx_delay': ('tcp_sock', 'tcp_tx_delay'),
    'net_loopback_dev': ('net', 'loopback_dev'),
    'net_device_ip_ptr': ('net_device', 'ip_ptr'),
    'in_device_cnf': ('in_device', 'cnf.data'),
    'task_comm': ('task_struct', 'comm'),
    'task_tgid': ('task_struct', 'tgid'),
    'task_group_leader': ('task_struct', 'group_leader'),
    'task_mm': ('task_struct', 'mm'),
    'mm_exe_file': ('mm_struct', 'exe_file'),
    'file_inode': ('file', 'f_inode'),
    'inode_ino': ('inode', 'i_ino'),
    'inode_sb': ('inode', 'i_sb'),
    'super_block_dev': ('super_block', 's_dev'),
    'task_cgroups': ('task_struct', 'cgroups'),
    'css_set_dfl_cgrp': ('css_set', 'dfl_cgrp'),
    'tcp_sock_bytes_acked': ('tcp_sock', 'bytes_acked'),
    'tcp_sock_bytes_received': ('tcp_sock', 'bytes_received'),
    'tcp_sock_data_segs_out': ('tcp_sock', 'data_segs_out'),
    'tcp_sock_data_segs_in': ('tcp_sock', 'data_segs_in'),
    'tcp_sock_urg_seq': ('tcp_sock', 'urg_seq'),
}
# Some kernels are built without these (CONFIG_MPTCP, CONFIG_MEMCG, CONFIG_MEMCG_V1, CONFIG_XFRM, CONFIG_IPV6,
# CONFIG_CGROUP_BPF, CONFIG_TCP_MD5SIG), or are older (ao_info came with 6.7, psp_assoc with 6.18).
OPTIONAL_FIELDS = {
    'sock_is_mptcp': ('tcp_sock', 'is_mptcp'),
    'tcp_sock_recvmsg_inq': ('tcp_sock', 'recvmsg_inq'),
    'sock_policy': ('sock', 'sk_policy'),
    'net_policy_count': ('net', 'xfrm.policy_count'),
    'net_policy_default': ('net', 'xfrm.policy_default'),
    'cgroup_effective': ('cgroup', 'bpf.effective'),
    'prog_array_items': ('bpf_prog_array', 'items'),
    'tcp_sock_md5': ('tcp_sock', 'md5sig_info'),
    'tcp_sock_ao': ('tcp_sock', 'ao_info'),
    'sock_psp': ('sock', 'psp_assoc'),
    'inet_pinet6': ('inet_sock', 'pinet6'),
    'ipv6_opt': ('ipv6_pinfo', 'opt'),
    'ipv6_min_hopcount': ('ipv6_pinfo', 'min_hopcount'),
    'sock_memcg': ('sock', 'sk_memcg'),
    'memcg_memory': ('mem_cgroup', 'memory'),
    'memcg_tcpmem': ('mem_cgroup', 'tcpmem'),
    'memcg_tcpmem_active': ('mem_cgroup', 'tcpmem_active'),
    'page_counter_usage': ('page_counter', 'usage'),
    'page_counter_max': ('page_counter', 'max'),
    'page_counter_parent': ('page_counter', 'parent'),
}
# Read by watchers alone: to look for them would make other cold starts longer. struct mount is in fs/mount.h.
WATCHED_FIELDS = {
    'msghdr_flags': ('msghdr', 'msg_flags'),
    'file_dentry': ('file', 'f_path.dentry'),
    'file_mnt': ('file', 'f_path.mnt'),
    'dentry_parent': ('dentry', 'd_parent'),
    'dentry_name': ('dentry', 'd_name.name'),
    'mount_mnt': ('mount', 'mnt'),
    'mount_parent': ('mount', 'mnt_parent'),
    'mount_mountpoint': ('mount', 'mnt_mountpoint'),
    'vfsmount_root': ('vfsmount', 'mnt_root'),
}
ENUMERATORS = {
    name: 'sock_flags'
    for name in ('SOCK_ZEROCOPY', 'SOCK_URGINLINE', 'SOCK_RCVTSTAMP', 'SOCK_TIMESTAMPING_RX_SOFTWARE')
}
OPTIONAL_ENUMERATORS = {name: 'cgroup_bpf_attach_type' for name in ('CGROUP_INET_INGRESS', 'CGROUP_INET_EGRESS')}
# With this function and these types the programs read without calling a helper (READ_AS() in bpf/lib/kernel.h).
CAST = 'bpf_rdonly_cast'
CAST_TO = ('tcp_sock', 'timespec64')


@dataclass(frozen=True)
class Field:
    """A member: its offset in bytes; for a bit field also its shift and width in the byte at that offset."""

    offset: int
    shift: int = 0
    bits: int = 8


def locate(types: KernelTypes, structure: str, path: str) -> Field:
    """Follow a path of members, such as `sk_backlog.rmem_alloc`, through a structure, also into anonymous ones.

    Raises KeyError with the name that this kernel does not have.
    """
    type_id = types.find(structure, BTF_KIND_STRUCT)
    bit_offset, bits = 0, 0
    for member in path.split('.'):
        found = _member(types, types.resolve(type_id), member)
        if found is None:
            raise KeyError(f'{structure}.{path}')
        type_id, relative, bits = found
        bit_offset += relative
    return Field(bit_offset // 8, bit_offset % 8, bits or 8)


def _member(types: KernelTypes, type_id: int, name: str) -> tuple[int, int, int] | None:
    """Type, offset in bits and width as a bit field (0 for none) of a member; None if there is no such member."""
    kind, vlen, kind_flag, words = types.words(type_id, 3)
    if kind not in (BTF_KIND_STRUCT, BTF_KIND_UNION):
        return None
    for index in range(vlen):
        name_offset, member_type, where = words[3 * index : 3 * index + 3]
        bit_offset, bits = (where & 0xFFFFFF, where >> 24) if kind_flag else (where, 0)
        member = types.name(name_offset)
        if member == name:
            return member_type, bit_offset, bits
        if not member:
            inner = _member(types, types.resolve(member_type), name)
            if inner is not None:
                return inner[0], bit_offset + inner[1], inner[2]
    return None


def enumerator(types: KernelTypes, enum: str, name: str) -> int:
    """The value of an enumerator. Raises KeyError if this kernel does not have it."""
    _kind, vlen, _flag, words = types.words(types.find(enum, BTF_KIND_ENUM), 2)
    for index in range(vlen):
        if types.name(words[2 * index]) == name:
            return words[2 * index + 1]
    raise KeyError(f'{enum} {name}')


def defines() -> dict[str, int]:
    """The -D options for this kernel.

    Raises UnsupportedKernel, which names what the kernel lacks, or LoaderEnded for lack of memory.
    """
    try:
        with KernelTypes() as types:
            found = {name: locate(types, *path) for name, path in FIELDS.items()}
            for name, path in OPTIONAL_FIELDS.items():
                with contextlib.suppress(KeyError):
                    found[name] = locate(types, *path)
            if 'sock_policy' in found:
                # An array of two: for what comes in, and for what leaves.
                found['sock_policy_out'] = Field(found['sock_policy'].offset + 8)
            values = {name: enumerator(types, enum, name) for name, enum in ENUMERATORS.items()}
            for name, enum in OPTIONAL_ENUMERATORS.items():
                with contextlib.suppress(KeyError):
                    values[name] = enumerator(types, enum, name)
            with contextlib.suppress(KeyError):
                values['KFUNC_rdonly_cast'] = types.find(CAST, BTF_KIND_FUNC)
            with contextlib.suppress(KeyError):
                functions = watched.defines(types)
                if functions:
                    found |= {name: locate(types, *path) for name, path in WATCHED_FIELDS.items()}
                values |= functions
            for name in CAST_TO:
                values[f'TYPE_{name}'] = types.find(name, BTF_KIND_STRUCT)
    except OSError as exc:
        # libbpf 1.1 says ESRCH for whatever has kept it from reading the file.
        if os.access(exc.filename, os.R_OK):
            raise LoaderEnded(
                f'cannot read the type information of the kernel from "{exc.filename}" ({exc.strerror}), though '
                'it is there: is there enough memory?'
            ) from exc
        raise UnsupportedKernel(
            f'cannot read the type information of kernel {os.uname().release} from "{exc.filename}" '
            f'({exc.strerror}): sockaccel needs a kernel that is built with CONFIG_DEBUG_INFO_BTF'
        ) from exc
    except KeyError as exc:
        raise UnsupportedKernel(
            f'kernel {os.uname().release} has no "{exc.args[0]}", which sockaccel needs to tell when a redirect '
            'is safe: use kernel 6.1.123 or newer'
        ) from exc
    for name, field in found.items():
        values[f'OFFSET_{name}'] = field.offset
        values[f'SHIFT_{name}'] = field.shift
        values[f'MASK_{name}'] = (1 << field.bits) - 1
    return values | view.defines({name: field.offset for name, field in found.items()})
