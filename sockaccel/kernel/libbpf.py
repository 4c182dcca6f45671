# SPDX-License-Identifier: GPL-2.0-or-later
"""The calls of libbpf 1.x that sockaccel uses. A call that fails raises OSError with errno and its text."""

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Generator
from typing import Any

# Enumerators of the kernel's include/uapi/linux/bpf.h
BPF_PROG_TYPE_CGROUP_SOCK = 9
BPF_PROG_TYPE_SOCK_OPS = 13
BPF_PROG_TYPE_SK_MSG = 16
BPF_PROG_TYPE_TRACING = 26
BPF_CGROUP_SOCK_OPS = 3
BPF_CGROUP_INET_SOCK_RELEASE = 34
BPF_SK_MSG_VERDICT = 7
BPF_TRACE_FENTRY = 24
BPF_TRACE_FEXIT = 25
BPF_TRACE_ITER = 28
BPF_ANY = 0
# The kernel cuts names to this length (BPF_OBJ_NAME_LEN without the NUL).
NAME_LENGTH = 15

BTF_KIND_STRUCT = 4
BTF_KIND_UNION = 5
BTF_KIND_ENUM = 6
BTF_KIND_FUNC = 12

# struct bpf_insn
_INSTRUCTION = struct.Struct('=BBhi')
# r0 = 0; exit
NOTHING = _INSTRUCTION.pack(0xB7, 0, 0, 0) + _INSTRUCTION.pack(0x95, 0, 0, 0)
_RING_BUFFER_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _IterMapInfo(ctypes.Structure):
    """union bpf_iter_link_info, as far as a map iterator needs it."""

    _fields_ = (('map_fd', ctypes.c_uint32), ('reserved', ctypes.c_uint32 * 3))


class _LinkCreateOpts(ctypes.Structure):
    """struct bpf_link_create_opts of libbpf's bpf.h, as far as an iterator needs it."""

    _fields_ = (
        ('size', ctypes.c_size_t),
        ('flags', ctypes.c_uint32),
        ('iter_info', ctypes.POINTER(_IterMapInfo)),
        ('iter_info_len', ctypes.c_uint32),
        ('target_btf_id', ctypes.c_uint32),
        ('reserved', ctypes.c_uint64 * 8),
    )


class _ProgLoadOpts(ctypes.Structure):
    """struct bpf_prog_load_opts of libbpf's bpf.h, as far as a tracing program needs it."""

    _fields_ = (
        ('size', ctypes.c_size_t),
        ('attempts', ctypes.c_int),
        ('expected_attach_type', ctypes.c_int),
        ('prog_btf_fd', ctypes.c_uint32),
        ('prog_flags', ctypes.c_uint32),
        ('prog_ifindex', ctypes.c_uint32),
        ('kern_version', ctypes.c_uint32),
        ('attach_btf_id', ctypes.c_uint32),
        ('attach_prog_fd', ctypes.c_uint32),
    )


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL('libbpf.so.1', use_errno=True)
    pointer, integer, text, unsigned = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32
    signatures: dict[str, tuple[Any, list[Any]]] = {
        'bpf_link_create': (integer, [integer, integer, integer, ctypes.POINTER(_LinkCreateOpts)]),
        'bpf_iter_create': (integer, [integer]),
        'bpf_link_update': (integer, [integer, integer, pointer]),
        'bpf_obj_pin': (integer, [integer, text]),
        'bpf_obj_get': (integer, [text]),
        'bpf_obj_get_info_by_fd': (integer, [integer, pointer, ctypes.POINTER(unsigned)]),
        'bpf_prog_attach': (integer, [integer, integer, integer, unsigned]),
        'bpf_map_lookup_elem': (integer, [integer, pointer, pointer]),
        'bpf_map_update_elem': (integer, [integer, pointer, pointer, ctypes.c_uint64]),
        'bpf_map_delete_elem': (integer, [integer, pointer]),
        'bpf_map_get_next_key': (integer, [integer, pointer, pointer]),
        'libbpf_num_possible_cpus': (integer, []),
        'bpf_prog_load': (integer, [integer, text, text, text, ctypes.c_size_t, pointer]),
        'ring_buffer__new': (pointer, [integer, _RING_BUFFER_CALLBACK, pointer, pointer]),
        'ring_buffer__epoll_fd': (integer, [pointer]),
        'ring_buffer__consume': (integer, [pointer]),
        'ring_buffer__free': (None, [pointer]),
        'btf__load_vmlinux_btf': (pointer, []),
        'btf__free': (None, [pointer]),
        'btf__find_by_name_kind': (integer, [pointer, text, unsigned]),
        'btf__type_by_id': (pointer, [pointer, unsigned]),
        'btf__resolve_type': (integer, [pointer, unsigned]),
        'btf__name_by_offset': (text, [pointer, unsigned]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    # Without this libbpf would also print each failure to fd 2.
    library.libbpf_set_print.argtypes = [pointer]
    library.libbpf_set_print.restype = pointer
    library.libbpf_set_print(None)
    return library


_libbpf = _load()


def _check(result: int) -> int:
    """Raise OSError for a negative result: libbpf 1.x returns -errno, and sets errno."""
    if result < 0:
        code = ctypes.get_errno() or -result
        raise OSError(code, os.strerror(code))
    return result


def possible_cpus() -> int:
    """How many values a per-CPU map has for each key."""
    return _check(_libbpf.libbpf_num_possible_cpus())


def load_tracing(name: bytes, code: bytes, attach_type: int, function: int) -> int:
    """Load a program that watches a function of the kernel. code: instructions; function: its BTF id.

    BCC could do it, but the versions of BCC want different names for such programs, and all load and attach on
    their own what has such a name.
    """
    options = _ProgLoadOpts(
        size=ctypes.sizeof(_ProgLoadOpts), expected_attach_type=attach_type, attach_btf_id=function
    )
    return _check(
        _libbpf.bpf_prog_load(
            BPF_PROG_TYPE_TRACING, name, b'GPL', code, len(code) // _INSTRUCTION.size, ctypes.byref(options)
        )
    )


def load(name: bytes, code: bytes, *, program_type: int, attach_type: int) -> int:
    """Load a program of a type that depends on where it will be attached. code: instructions. Returns its fd."""
    options = _ProgLoadOpts(size=ctypes.sizeof(_ProgLoadOpts), expected_attach_type=attach_type)
    return _check(
        _libbpf.bpf_prog_load(
            program_type, name, b'GPL', code, len(code) // _INSTRUCTION.size, ctypes.byref(options)
        )
    )


def attach_function(program: int, attach_type: int) -> int:
    """Let a program run at each call of the function for which it was loaded. Returns the link's fd.

    The same program cannot be attached twice, and bpf_link_update() takes no such link.
    """
    return _check(_libbpf.bpf_link_create(program, 0, attach_type, None))


def attach_cgroup(program: int, cgroup: int, attach_type: int) -> int:
    """Link a program to a cgroup, beside others there. cgroup: fd of its directory. Returns the link's fd."""
    return _check(_libbpf.bpf_link_create(program, cgroup, attach_type, None))


def attach_network(program: int, network: int, attach_type: int) -> int:
    """Link a program to a network namespace, beside others there. network: an fd of it. Returns the link's fd."""
    return _check(_libbpf.bpf_link_create(program, network, attach_type, None))


def replace_program(link: int, program: int) -> None:
    """Let a link run another program from now on; there is no moment without a program."""
    _check(_libbpf.bpf_link_update(link, program, None))


def link_cgroup(link: int) -> int:
    """The id of the cgroup that a link is attached to, 0 if the cgroup is gone."""
    # struct bpf_link_info: type, id, prog_id, padding, cgroup_id
    return int(struct.unpack_from('=Q', _info(link, 24), 16)[0])


def link_network(link: int) -> int:
    """The inode number of the network namespace that a link is attached to, 0 if that is gone."""
    # struct bpf_link_info: type, id, prog_id, padding, netns_ino
    return int(struct.unpack_from('=I', _info(link, 24), 16)[0])


def map_name(fd: int) -> str:
    """The name under which a map was made, '' if the fd is not that of a map."""
    if os.readlink(f'/proc/self/fd/{fd}') != 'anon_inode:bpf-map':
        return ''
    # struct bpf_map_info: type, id, key_size, value_size, max_entries, map_flags, name
    return _info(fd, 40)[24:].split(b'\0', 1)[0].decode(errors='replace')


def map_sizes(fd: int) -> tuple[int, int]:
    """How many bytes a key and a value of a map have; for a per-CPU map, the value of one CPU."""
    # struct bpf_map_info: type, id, key_size, value_size
    key, value = struct.unpack_from('=II', _info(fd, 16), 8)
    return int(key), int(value)


def _info(fd: int, size: int) -> bytes:
    """The first bytes of what the kernel tells of an object (bpf_obj_get_info_by_fd())."""
    value, length = ctypes.create_string_buffer(size), ctypes.c_uint32(size)
    _check(_libbpf.bpf_obj_get_info_by_fd(fd, value, ctypes.byref(length)))
    return value.raw


def pin(fd: int, path: os.PathLike[str]) -> None:
    """Give an object a name in the BPF file system, where it stays until the name is removed."""
    _check(_libbpf.bpf_obj_pin(fd, os.fsencode(path)))


def get_pinned(path: os.PathLike[str]) -> int:
    """A new fd of the object that has this name in the BPF file system."""
    return _check(_libbpf.bpf_obj_get(os.fsencode(path)))


def attach_map(program: int, map_fd: int, attach_type: int) -> None:
    """Attach a program to a sockhash. The attachment ends with the map."""
    _check(_libbpf.bpf_prog_attach(program, map_fd, attach_type, 0))


def iterate(program: int, map_fd: int | None = None) -> Generator[bytes, None, None]:
    """Run an iterator program once, over a map, or over whatever its type walks.

    Yields what the program prints, and b'' when the walk was interrupted: by the kernel, after many objects, or by
    the program, which returns 1 for that (bpf_seq_read() in kernel/bpf/bpf_iter.c).
    """
    options = _LinkCreateOpts(size=_LinkCreateOpts.reserved.offset)
    if map_fd is not None:
        info = _IterMapInfo(map_fd=map_fd)
        options.iter_info = ctypes.pointer(info)
        options.iter_info_len = ctypes.sizeof(info)
    link = _check(_libbpf.bpf_link_create(program, 0, BPF_TRACE_ITER, ctypes.byref(options)))
    try:
        walk = _check(_libbpf.bpf_iter_create(link))
        try:
            while True:
                try:
                    chunk = os.read(walk, 1 << 16)
                except OSError as exc:
                    if exc.errno != errno.EAGAIN:
                        raise
                    yield b''
                    continue
                if not chunk:
                    return
                yield chunk
        finally:
            os.close(walk)
    finally:
        os.close(link)


def map_lookup(map_fd: int, key: bytes, size: int) -> bytes | None:
    """The value of a key, None if it has none. size: bytes of the value; for a per-CPU map, of all CPUs."""
    value = ctypes.create_string_buffer(size)
    try:
        _check(_libbpf.bpf_map_lookup_elem(map_fd, key, value))
    except FileNotFoundError:
        return None
    return value.raw


def map_update(map_fd: int, key: bytes, value: bytes) -> None:
    """Set the value of a key, new or not."""
    _check(_libbpf.bpf_map_update_elem(map_fd, key, value, BPF_ANY))


def map_delete(map_fd: int, key: bytes) -> bool:
    """Remove a key. Returns False if it was not there."""
    try:
        _check(_libbpf.bpf_map_delete_elem(map_fd, key))
    except FileNotFoundError:
        return False
    return True


def map_clear(map_fd: int, key_size: int) -> None:
    """Remove every key. key_size: in bytes."""
    # Listed first: to find the first key again after each removal, the kernel would search the emptied buckets.
    for key in map_keys(map_fd, key_size):
        map_delete(map_fd, key)


def map_keys(map_fd: int, size: int) -> list[bytes]:
    """Every key of a map. Nobody may remove keys meanwhile. size: of a key in bytes."""
    found: list[bytes] = []
    key = ctypes.create_string_buffer(size)
    try:
        _check(_libbpf.bpf_map_get_next_key(map_fd, None, key))
        while True:
            found.append(key.raw)
            _check(_libbpf.bpf_map_get_next_key(map_fd, key, key))
    except FileNotFoundError:
        return found


def wait_for_programs(of_maps: int, inner: int) -> None:
    """Return when every BPF program that was running has ended.

    of_maps: fd of a map of maps with one place, which no program reads: a write to one waits for them
    (maybe_wait_bpf_programs() in kernel/bpf/syscall.c). inner: fd of a map that fits there.
    """
    map_update(of_maps, bytes(4), struct.pack('=I', inner))


class RingBuffer:
    """A BPF ring buffer. `fd` is readable while it has something."""

    def __init__(self, map_fd: int, receive: Callable[[bytes], None]) -> None:
        def callback(_context: int, data: int, size: int) -> int:
            receive(ctypes.string_at(data, size))
            return 0

        # Without this reference the callback would be freed: ctypes keeps none.
        self._callback = _RING_BUFFER_CALLBACK(callback)
        self._buffer = _libbpf.ring_buffer__new(map_fd, self._callback, None, None)
        if not self._buffer:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self.fd = int(_libbpf.ring_buffer__epoll_fd(self._buffer))

    def consume(self) -> None:
        """Call `receive` with each record that is there."""
        _check(_libbpf.ring_buffer__consume(self._buffer))

    def close(self) -> None:
        if self._buffer:
            _libbpf.ring_buffer__free(self._buffer)
            self._buffer = None


class KernelTypes:
    """The running kernel's type information (BTF). A context manager."""

    def __init__(self) -> None:
        self._btf = _libbpf.btf__load_vmlinux_btf()
        if not self._btf:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), '/sys/kernel/btf/vmlinux')

    def __enter__(self) -> 'KernelTypes':
        return self

    def __exit__(self, *_exc: object) -> None:
        _libbpf.btf__free(self._btf)

    def find(self, name: str, kind: int) -> int:
        """The id of a named type. Raises KeyError. kind: a BTF_KIND_ constant."""
        found = int(_libbpf.btf__find_by_name_kind(self._btf, name.encode(), kind))
        if found <= 0:
            raise KeyError(name)
        return found

    def resolve(self, type_id: int) -> int:
        """The id of the type behind typedefs, const and volatile."""
        return int(_libbpf.btf__resolve_type(self._btf, type_id))

    def words(self, type_id: int, count: int) -> tuple[int, int, int, list[int]]:
        """Kind, vlen and kind_flag of a struct btf_type, and the 32-bit words of the entries behind it.

        count: how many words each of the vlen entries has (include/uapi/linux/btf.h).
        """
        address = _libbpf.btf__type_by_id(self._btf, type_id)
        info = ctypes.c_uint32.from_address(address + 4).value
        kind, vlen, kind_flag = info >> 24 & 0x1F, info & 0xFFFF, info >> 31
        words = (ctypes.c_uint32 * (vlen * count)).from_address(address + 12)
        return kind, vlen, kind_flag, list(words)

    def argument_count(self, function: int) -> int:
        """How many arguments the function with this id takes."""
        address = _libbpf.btf__type_by_id(self._btf, function)
        # The third word of a struct btf_type is the id of the prototype, which has an entry for each argument.
        _kind, count, _flag, _words = self.words(ctypes.c_uint32.from_address(address + 8).value, 2)
        return count

    def name(self, offset: int) -> str:
        """The text at an offset of the string section."""
        return bytes(_libbpf.btf__name_by_offset(self._btf, offset)).decode()
