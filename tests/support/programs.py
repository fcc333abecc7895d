"""What the kernel itself says is attached and exists, asked by bpf(2): nothing that the project keeps is believed."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from pathlib import Path

SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
BPF_MAP_CREATE, BPF_OBJ_PIN, BPF_PROG_QUERY, BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD = 0, 6, 16, 13, 14, 15
BPF_MAP_TYPE_HASH = 1
TCX = {"ingress": 46, "egress": 47}
_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: ctypes.Array) -> int:
    answer = _libc.syscall(SYS_BPF, command, attributes, ctypes.sizeof(attributes))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def attached(ifindex: int) -> list[int]:
    """Ids of the programs that are attached by tcx to an interface of this network namespace, whoever attached them."""
    found: list[int] = []
    for kind in TCX.values():
        ids = (ctypes.c_uint32 * 64)()
        attributes = ctypes.create_string_buffer(struct.pack("=IIIIQII", ifindex, kind, 0, 0, ctypes.addressof(ids), 64, 0), 64)
        _bpf(BPF_PROG_QUERY, attributes)
        found += ids[:struct.unpack_from("=I", attributes, 24)[0]]
    return found


def number(program: int) -> int:
    """The id of a program, of which `program` is a descriptor."""
    return struct.unpack_from("=I", _program_info(program), 4)[0]


def instructions(program: int) -> int:
    """How many instructions the verifier looked at before it took the program: what a kernel bounds at a million. 0 before Linux 5.16, which
    does not say it."""
    return struct.unpack_from("=I", _program_info(program), 216)[0]


def _program_info(program: int) -> bytes:
    """struct bpf_prog_info; what the kernel does not know stays zero."""
    info = ctypes.create_string_buffer(256)
    _bpf(BPF_OBJ_GET_INFO_BY_FD, ctypes.create_string_buffer(struct.pack("=IIQ", program, 228, ctypes.addressof(info)), 64))
    return info.raw


def exists(kind: str, number: int) -> bool:
    """Whether there is a `program` or a `map` of this id."""
    command = {"program": BPF_PROG_GET_FD_BY_ID, "map": BPF_MAP_GET_FD_BY_ID}[kind]
    try:
        os.close(_bpf(command, ctypes.create_string_buffer(struct.pack("=I", number), 64)))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def pin_hash_map(path: Path, key_size: int, value_size: int, entries: int = 16) -> None:
    """Makes a hash table of any shape, pinned at `path`, as another release may have left it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = _bpf(BPF_MAP_CREATE, ctypes.create_string_buffer(struct.pack("=IIII", BPF_MAP_TYPE_HASH, key_size, value_size, entries), 64))
    try:
        name = ctypes.create_string_buffer(os.fsencode(path))
        _bpf(BPF_OBJ_PIN, ctypes.create_string_buffer(struct.pack("=QI", ctypes.addressof(name), fd), 64))
    finally:
        os.close(fd)
