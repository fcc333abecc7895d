# distutils: language = c
"""The one wall to bpf(2) and libbpf: objects, maps, tcx links, test runs and the ring buffer. Nothing else in the project calls them.

Keys and values are bytes here; `tables` gives them their shape. Every failure is an OSError with the kernel's errno, what was tried and on what.
"""

import errno
import os
from contextlib import contextmanager

from libc.errno cimport errno as c_errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from wharfinger_dataplane cimport libbpf

TCX_INGRESS = 46
TCX_EGRESS = 47
cdef int LINK_CREATE = 28
cdef int LINK_UPDATE = 29
cdef int LINK_DETACH = 34
cdef int OBJ_GET_INFO_BY_FD = 15
cdef int PROG_QUERY = 16
cdef uint32_t LOOPBACK = 1  # its index, in every network namespace
NO_TCX = (errno.EINVAL, errno.EOPNOTSUPP)
cdef uint32_t LINK_TYPE_TCX = 11
cdef int BEFORE = 8  # BPF_F_BEFORE
ATTACH_TYPES = {"tcx/ingress": TCX_INGRESS, "tcx/egress": TCX_EGRESS}
BATCH = 4096
QUERIED_MAX = 64
"""The kernel takes no more programs at one place (BPF_MPROG_MAX)."""

cdef list complaints = []
cdef char complaint[1 << 20]


cdef int on_print(libbpf.libbpf_print_level level, const char *form, libbpf.va_list args) noexcept with gil:
    """libbpf's warnings, the verifier's log among them, are kept for the error that follows them."""
    if level == libbpf.LIBBPF_WARN:
        libbpf.vsnprintf(complaint, sizeof(complaint), form, args)
        complaints.append(complaint.decode(errors="replace").rstrip()[-4000:])
    return 0


libbpf.libbpf_set_print(on_print)


cdef object failed(int code, str what):
    code = -code if code < 0 else code
    return OSError(code, f"{what}: {os.strerror(code)}")


cdef int info_of(int fd, void *info, uint32_t size, str what) except -1:
    """The kernel's description (struct bpf_*_info) of a map, program or link."""
    cdef uint32_t attr[16]
    cdef uint64_t where = <uint64_t>info
    memset(info, 0, size)
    memset(attr, 0, sizeof(attr))
    attr[0], attr[1] = fd, size
    memcpy(&attr[2], &where, 8)
    if libbpf.syscall(libbpf.SYS_bpf, OBJ_GET_INFO_BY_FD, attr, sizeof(attr)) < 0:
        raise failed(c_errno, what)
    return 0


@contextmanager
def statistics():
    """While it lasts the kernel counts every program's runs and nanoseconds."""
    cdef int fd = libbpf.bpf_enable_stats(0)  # BPF_STATS_RUN_TIME
    if fd < 0:
        raise failed(fd, "switching the kernel's program statistics on")
    try:
        yield
    finally:
        libbpf.close(fd)


def has_tcx() -> bool:
    """Whether this kernel attaches programs by tcx links: Linux from 6.6 on, unless it was built without."""
    cdef uint32_t attr[16]
    memset(attr, 0, sizeof(attr))
    attr[0], attr[1] = LOOPBACK, TCX_INGRESS
    if libbpf.syscall(libbpf.SYS_bpf, PROG_QUERY, attr, sizeof(attr)) == 0:
        return True
    if c_errno in NO_TCX:
        return False
    raise failed(c_errno, "asking the kernel for tcx links")


cdef class Map:
    """A BPF map: bytes in, bytes out. `key_size` and `value_size` in bytes; per-processor values come as one bytes for each processor."""

    cdef readonly int fd
    cdef readonly str name
    cdef readonly uint32_t key_size, value_size, max_entries
    cdef readonly int kind
    cdef uint32_t stride

    def __init__(self, int fd, str name, int kind, uint32_t key_size, uint32_t value_size, uint32_t max_entries):
        self.fd, self.name, self.kind = fd, name, kind
        self.key_size, self.value_size, self.max_entries = key_size, value_size, max_entries
        self.stride = value_size
        if self.per_cpu:
            self.stride = (value_size + 7) // 8 * 8 * libbpf.libbpf_num_possible_cpus()

    @staticmethod
    def open(path):
        """The map pinned at `path`, for the caller to close, or None."""
        cdef int fd = libbpf.bpf_obj_get(os.fsencode(path))
        if fd == -errno.ENOENT:
            return None
        if fd < 0:
            raise failed(fd, f"opening the map pinned at {path}")
        cdef uint32_t[16] info
        info_of(fd, info, sizeof(info), f"reading the map pinned at {path}")
        return Map(fd, os.path.basename(path), info[0], info[2], info[3], info[4])  # struct bpf_map_info: type, id, sizes, capacity

    def close(self):
        """Of a map that was opened by its path; an object's maps close with it."""
        libbpf.close(self.fd)
        self.fd = -1

    @property
    def per_cpu(self) -> bool:
        return self.kind == libbpf.BPF_MAP_TYPE_PERCPU_ARRAY

    @property
    def forgets(self) -> bool:
        """Whether a full map makes room by forgetting what was used least lately."""
        return self.kind == libbpf.BPF_MAP_TYPE_LRU_HASH

    cdef _check(self, bytes key):
        if <uint32_t>len(key) != self.key_size:
            raise ValueError(f"map {self.name}: a key has {self.key_size} bytes, not {len(key)}")

    def get(self, bytes key):
        """The value, or None."""
        self._check(key)
        cdef bytearray value = bytearray(self.stride)
        cdef int code = libbpf.bpf_map_lookup_elem(self.fd, <const char *>key, <char *>value)
        if code == -errno.ENOENT:
            return None
        if code:
            raise failed(code, f"map {self.name}: look-up")
        return bytes(value)

    def get_per_cpu(self, bytes key) -> list:
        """The value on each possible processor."""
        step = self.stride // libbpf.libbpf_num_possible_cpus()
        whole = self.get(key)
        return [] if whole is None else [whole[at:at + self.value_size] for at in range(0, self.stride, step)]

    def put(self, bytes key, bytes value):
        """Replaces the whole value; a packet sees the old or the new one."""
        self._check(key)
        if <uint32_t>len(value) != self.stride:
            raise ValueError(f"map {self.name}: a value has {self.stride} bytes, not {len(value)}")
        cdef int code = libbpf.bpf_map_update_elem(self.fd, <const char *>key, <const char *>value, 0)
        if code:
            raise failed(code, f"map {self.name}: write (capacity {self.max_entries})")

    def put_new(self, bytes key, bytes value) -> bool:
        """Writes the value if there is none under the key; whether it did."""
        self._check(key)
        if <uint32_t>len(value) != self.stride:
            raise ValueError(f"map {self.name}: a value has {self.stride} bytes, not {len(value)}")
        cdef int code = libbpf.bpf_map_update_elem(self.fd, <const char *>key, <const char *>value, libbpf.BPF_NOEXIST)
        if code and code != -errno.EEXIST:
            raise failed(code, f"map {self.name}: write (capacity {self.max_entries})")
        return code == 0

    def delete(self, bytes key) -> bool:
        """Whether there was one."""
        self._check(key)
        cdef int code = libbpf.bpf_map_delete_elem(self.fd, <const char *>key)
        if code and code != -errno.ENOENT:
            raise failed(code, f"map {self.name}: delete")
        return code == 0

    def take(self, bytes key):
        """Removes the value and answers it, as one step; None when there is none. Hash tables only."""
        self._check(key)
        cdef bytearray value = bytearray(self.stride)
        cdef int code = libbpf.bpf_map_lookup_and_delete_elem(self.fd, <const char *>key, <char *>value)
        if code == -errno.ENOENT:
            return None
        if code:
            raise failed(code, f"map {self.name}: take")
        return bytes(value)

    def items(self) -> list:
        """Every (key, value), by batches; what packets add or remove meanwhile may or may not be seen."""
        return [item for batch in self.batches() for item in batch]

    def batches(self):
        """As `items`, but a list of at most some thousands at a time, so that other threads run in between."""
        cdef uint32_t n
        if self.kind == libbpf.BPF_MAP_TYPE_ARRAY or self.per_cpu:
            keys = [int(n).to_bytes(4, "little") for n in range(self.max_entries)]
            yield [(key, self.get(key)) for key in keys]
            return
        for count, keys, values in self.buffers():
            yield [(bytes(keys[n * self.key_size:(n + 1) * self.key_size]), bytes(values[n * self.stride:(n + 1) * self.stride]))
                   for n in range(count)]

    def absorb(self, Map other, uint32_t seen_at):
        """Copies what the other hash table has, whose keys are like this one's, by batches, and yields how many records each
        wrote. Values are cut, or filled up with zeros, to this table's size; the 32-bit stamp at byte `seen_at` says when a
        record was last used (clock.h): one that is here already and was used later stays."""
        if other.key_size != self.key_size or seen_at + 4 > self.stride:
            raise ValueError(f"map {self.name}: cannot take what {other.name} has")
        cdef uint32_t n, written, common = min(self.stride, other.stride)
        cdef bytearray mine = bytearray(self.stride), theirs = bytearray(self.stride), keys, values
        cdef char *was = mine
        cdef char *comes = theirs
        cdef char *key
        cdef char *value
        cdef uint32_t seen, sees, later
        cdef int code
        for count, keys, values in other.buffers():
            key, value, written = keys, values, 0
            for n in range(<uint32_t>count):
                memcpy(comes, value + n * other.stride, common)
                code = libbpf.bpf_map_update_elem(self.fd, key + n * self.key_size, comes, libbpf.BPF_NOEXIST)
                if code == -errno.EEXIST:
                    code = libbpf.bpf_map_lookup_elem(self.fd, key + n * self.key_size, was)
                    memcpy(&seen, was + seen_at, 4)
                    memcpy(&sees, comes + seen_at, 4)
                    later = (seen - sees) & 0xffffff  # clock.h, STAMP_TIME_MASK
                    if code == 0 and 0 < later < 0x800000:
                        continue
                    code = libbpf.bpf_map_update_elem(self.fd, key + n * self.key_size, comes, 0)
                if code:
                    raise failed(code, f"map {self.name}: write (capacity {self.max_entries})")
                written += 1
            yield written

    def buffers(self):
        """A hash table's (count, keys, values) by batches, as the kernel writes them: no object for each record."""
        cdef uint32_t count
        cdef uint32_t size = min(BATCH, self.max_entries)
        cdef bytearray keys, values
        cdef bytearray token = bytearray(max(self.key_size, 8))
        cdef libbpf.bpf_map_batch_opts opts
        cdef bint first = True
        cdef int code = 0
        memset(&opts, 0, sizeof(opts))
        opts.sz = sizeof(opts)
        while code == 0:
            keys, values = bytearray(size * self.key_size), bytearray(size * self.stride)
            count = size
            code = libbpf.bpf_map_lookup_batch(self.fd, NULL if first else <void *><char *>token, <char *>token,
                                               <char *>keys, <char *>values, &count, &opts)
            if code == -errno.ENOSPC and size < self.max_entries:  # one bucket holds more than a batch
                size = min(size * 2, self.max_entries)
                code = 0
                continue
            if code and code != -errno.ENOENT:
                raise failed(code, f"map {self.name}: listing")
            first = False
            yield count, keys, values


cdef class Program:
    """A loaded program."""

    cdef readonly int fd
    cdef readonly str name
    cdef readonly int attach_type

    def __init__(self, int fd, str name, int attach_type):
        self.fd, self.name, self.attach_type = fd, name, attach_type

    def run(self, bytes packet, *, int ifindex=0, uint32_t mark=0, int repeat=1):
        """One packet through BPF_PROG_TEST_RUN, of interface `ifindex` and with firewall mark `mark`: (verdict as a signed number, packet out, nanoseconds a run)."""
        cdef uint8_t out[65536]
        cdef uint8_t ctx[192]
        cdef libbpf.bpf_test_run_opts opts
        memset(&opts, 0, sizeof(opts))
        memset(ctx, 0, sizeof(ctx))
        opts.sz = sizeof(opts)
        opts.data_in, opts.data_size_in = <const char *>packet, <uint32_t>len(packet)
        opts.data_out, opts.data_size_out = out, sizeof(out)
        if ifindex:  # struct __sk_buff: mark at 8, ingress_ifindex at 36, ifindex at 40
            memcpy(&ctx[8], &mark, 4)
            memcpy(&ctx[36], &ifindex, 4)
            memcpy(&ctx[40], &ifindex, 4)
            opts.ctx_in, opts.ctx_size_in = ctx, sizeof(ctx)
        opts.repeat = repeat
        cdef int code = libbpf.bpf_prog_test_run_opts(self.fd, &opts)
        if code:
            raise failed(code, f"program {self.name}: test run of {len(packet)} bytes")
        return <int>opts.retval, out[:opts.data_size_out], opts.duration

    @property
    def number(self) -> int:
        """The kernel's id of it."""
        cdef uint32_t info[64]
        info_of(self.fd, info, sizeof(info), f"reading the id of program {self.name}")
        return info[1]  # struct bpf_prog_info: type, id

    def totals(self) -> tuple[int, int]:
        """(nanoseconds, runs) since it was loaded, as the kernel counts them while `statistics` is on."""
        cdef uint64_t info[32]
        info_of(self.fd, info, sizeof(info), f"reading what program {self.name} took")
        return info[24], info[25]  # struct bpf_prog_info: run_time_ns at 192, run_cnt at 200


cdef class Object:
    """A loaded BPF object file. Maps are pinned under `pins` (a directory of a bpffs), or adopted from there if they are pinned already."""

    cdef libbpf.bpf_object *handle
    cdef readonly dict maps
    cdef readonly dict programs

    def __init__(self, path, pins, max_entries=None):
        cdef libbpf.bpf_object_open_opts opts
        cdef bytes pin_root = os.fsencode(pins)
        cdef libbpf.bpf_program *prog = NULL
        cdef libbpf.bpf_map *each = NULL
        memset(&opts, 0, sizeof(opts))
        opts.sz = sizeof(opts)
        opts.pin_root_path = pin_root
        os.makedirs(pins, exist_ok=True)
        self.handle = libbpf.bpf_object__open_file(os.fsencode(path), &opts)
        if self.handle is NULL:
            raise failed(c_errno, f"{path}: cannot be opened as a BPF object")
        attach = {}
        while True:
            prog = libbpf.bpf_object__next_program(self.handle, prog)
            if prog is NULL:
                break
            section = libbpf.bpf_program__section_name(prog).decode()
            if section not in ATTACH_TYPES:
                raise ValueError(f"{path}: section {section} is not one of {', '.join(ATTACH_TYPES)}")
            attach[libbpf.bpf_program__name(prog).decode()] = ATTACH_TYPES[section]
            libbpf.bpf_program__set_type(prog, libbpf.BPF_PROG_TYPE_SCHED_CLS)
            libbpf.bpf_program__set_expected_attach_type(prog, ATTACH_TYPES[section])
        for name, entries in (max_entries or {}).items():
            self._resize(name, entries)
        complaints.clear()
        cdef int code = libbpf.bpf_object__load(self.handle)
        if code:
            raise failed(code, "\n".join([*complaints, f"{path}: the kernel refuses to load it (maps pinned at {pins})"]))
        self.programs, self.maps = {}, {}
        prog = NULL
        while True:
            prog = libbpf.bpf_object__next_program(self.handle, prog)
            if prog is NULL:
                break
            name = libbpf.bpf_program__name(prog).decode()
            self.programs[name] = Program(libbpf.bpf_program__fd(prog), name, attach[name])
        while True:
            each = libbpf.bpf_object__next_map(self.handle, each)
            if each is NULL:
                break
            if not libbpf.bpf_map__is_internal(each):
                name = libbpf.bpf_map__name(each).decode()
                self.maps[name] = Map(libbpf.bpf_map__fd(each), name, libbpf.bpf_map__type(each), libbpf.bpf_map__key_size(each),
                                      libbpf.bpf_map__value_size(each), libbpf.bpf_map__max_entries(each))

    cdef _resize(self, str name, int entries):
        cdef libbpf.bpf_map *each = NULL
        while True:
            each = libbpf.bpf_object__next_map(self.handle, each)
            if each is NULL:
                raise KeyError(f"no map {name} in the object")
            if libbpf.bpf_map__name(each).decode() == name:
                libbpf.bpf_map__set_max_entries(each, entries)
                return

    def close(self):
        """Lets go of maps and programs; what is pinned or attached lives on."""
        if self.handle is not NULL:
            libbpf.bpf_object__close(self.handle)
            self.handle = NULL

    def __dealloc__(self):
        if self.handle is not NULL:
            libbpf.bpf_object__close(self.handle)


def layout(path) -> list:
    """What the maps of an object file are, without loading it: (name, kind, key size, value size, capacity) of each."""
    cdef libbpf.bpf_map *each = NULL
    cdef libbpf.bpf_object *handle = libbpf.bpf_object__open_file(os.fsencode(path), NULL)
    if handle is NULL:
        raise failed(c_errno, f"{path}: cannot be opened as a BPF object")
    out = []
    try:
        while True:
            each = libbpf.bpf_object__next_map(handle, each)
            if each is NULL:
                return sorted(out)
            if not libbpf.bpf_map__is_internal(each):
                out.append((libbpf.bpf_map__name(each).decode(), libbpf.bpf_map__type(each), libbpf.bpf_map__key_size(each),
                            libbpf.bpf_map__value_size(each), libbpf.bpf_map__max_entries(each)))
    finally:
        libbpf.bpf_object__close(handle)


def queried(uint32_t ifindex, uint32_t attach_type) -> list[tuple[int, int]]:
    """(program's id, link's id) of whatever is attached by tcx to an interface of this namespace, in the order in which it runs. A link's id is 0
    for a program that was attached without one; a kernel without tcx has none of them."""
    cdef uint32_t attr[16]
    cdef uint32_t programs[64]
    cdef uint32_t links[64]
    cdef uint64_t where
    memset(attr, 0, sizeof(attr))
    memset(links, 0, sizeof(links))
    attr[0], attr[1], attr[6] = ifindex, attach_type, QUERIED_MAX
    where = <uint64_t>&programs[0]
    memcpy(&attr[4], &where, 8)
    where = <uint64_t>&links[0]
    memcpy(&attr[10], &where, 8)
    if libbpf.syscall(libbpf.SYS_bpf, PROG_QUERY, attr, sizeof(attr)) < 0:
        if c_errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return []
        raise failed(c_errno, f"asking what is attached to interface {ifindex}")
    return [(programs[n], links[n]) for n in range(attr[6])]


cdef class Link:
    """A program attached to an interface by tcx. It lasts while it is open or pinned."""

    cdef readonly int fd

    def __init__(self, int fd):
        self.fd = fd

    @staticmethod
    def create(Program program, int ifindex, bint first=False):
        """Attaches behind whatever is attached already, or before all of it."""
        cdef uint32_t attr[16]
        memset(attr, 0, sizeof(attr))
        attr[0], attr[1], attr[2], attr[3] = program.fd, ifindex, program.attach_type, BEFORE if first else 0
        cdef long fd = libbpf.syscall(libbpf.SYS_bpf, LINK_CREATE, attr, sizeof(attr))
        if fd < 0:
            raise failed(c_errno, f"attaching {program.name} to interface {ifindex}")
        return Link(<int>fd)

    @staticmethod
    def adopt(path):
        """The link pinned at `path`, or None."""
        cdef int fd = libbpf.bpf_obj_get(os.fsencode(path))
        if fd == -errno.ENOENT:
            return None
        if fd < 0:
            raise failed(fd, f"adopting the link pinned at {path}")
        return Link(fd)

    def pin(self, path):
        cdef int code = libbpf.bpf_obj_pin(self.fd, os.fsencode(path))
        if code:
            raise failed(code, f"pinning a link at {path}")

    def update(self, Program program):
        """Puts another program in place of the one attached, between two packets."""
        cdef uint32_t attr[16]
        memset(attr, 0, sizeof(attr))
        attr[0], attr[1] = self.fd, program.fd
        if libbpf.syscall(libbpf.SYS_bpf, LINK_UPDATE, attr, sizeof(attr)) < 0:
            raise failed(c_errno, f"replacing the program of a link by {program.name}")

    @property
    def ifindex(self) -> int:
        """The interface it is attached to; 0 when that interface is gone."""
        return self.place[0]

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Where it is attached, as the kernel says it: interface (0: it is gone), attach type, the program's id, its own id."""
        cdef uint32_t[16] info
        info_of(self.fd, info, sizeof(info), "reading what a link holds")
        if info[0] != LINK_TYPE_TCX:
            raise OSError(errno.EMEDIUMTYPE, f"a link is of type {info[0]}, not of tcx")
        return info[4], info[5], info[2], info[1]  # struct bpf_link_info: type, id, prog_id, (padding to 8), tcx.ifindex, tcx.attach_type

    def detach(self):
        cdef uint32_t attr[16]
        memset(attr, 0, sizeof(attr))
        attr[0] = self.fd
        if libbpf.syscall(libbpf.SYS_bpf, LINK_DETACH, attr, sizeof(attr)) < 0:
            raise failed(c_errno, "detaching a link")

    def close(self):
        if self.fd >= 0:
            libbpf.close(self.fd)
            self.fd = -1

    def __dealloc__(self):
        if self.fd >= 0:
            libbpf.close(self.fd)


cdef int hand_on(void *ctx, void *data, size_t size) noexcept nogil:
    cdef reading *to = <reading *>ctx
    return to.taker(to.context, data, size)


cdef int keep(void *context, void *record, size_t size) noexcept with gil:
    (<list>context).append((<const char *>record)[:size])
    return 0


cdef class Ring:
    """The reading end of a BPF ring buffer. One thread reads it at a time."""

    def __init__(self, Map events):
        self.handle = libbpf.ring_buffer__new(events.fd, hand_on, &self.reading, NULL)
        if self.handle is NULL:
            raise failed(c_errno, f"reading the ring buffer {events.name}")

    cdef int pass_to(self, record_taker taker, void *context) except -1:
        """Calls `taker` for every record since the last call, without the interpreter's lock; 1 when it had enough, else 0. Never waits."""
        cdef int code
        self.reading.taker, self.reading.context = taker, context
        with nogil:
            code = libbpf.ring_buffer__consume(self.handle)
        if code < 0 and code != ENOUGH:
            raise failed(code, "draining the ring buffer")
        return code == ENOUGH

    def drain(self) -> list:
        """Every record since the last call, as bytes, oldest first. Never waits."""
        taken = []
        self.pass_to(keep, <void *>taken)
        return taken

    def __dealloc__(self):
        if self.handle is not NULL:
            libbpf.ring_buffer__free(self.handle)
