# The part of libbpf and of bpf(2) that _bpf.pyx uses, declared as their own headers have it.
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "<stdarg.h>" nogil:
    ctypedef struct va_list:
        pass

cdef extern from "<stdio.h>" nogil:
    int vsnprintf(char *to, size_t size, const char *form, va_list args)

cdef extern from "<bpf/libbpf.h>" nogil:
    cdef struct bpf_object
    cdef struct bpf_program
    cdef struct bpf_map
    cdef struct ring_buffer
    enum libbpf_print_level:
        LIBBPF_WARN
    cdef struct bpf_object_open_opts:
        size_t sz
        const char *pin_root_path
    ctypedef int (*ring_buffer_sample_fn)(void *ctx, void *data, size_t size) noexcept

    bpf_object *bpf_object__open_file(const char *path, const bpf_object_open_opts *opts)
    int bpf_object__load(bpf_object *obj)
    void bpf_object__close(bpf_object *obj)
    bpf_program *bpf_object__next_program(const bpf_object *obj, bpf_program *prog)
    bpf_map *bpf_object__next_map(const bpf_object *obj, const bpf_map *map)
    const char *bpf_program__name(const bpf_program *prog)
    const char *bpf_program__section_name(const bpf_program *prog)
    int bpf_program__fd(const bpf_program *prog)
    int bpf_program__set_type(bpf_program *prog, int type)
    int bpf_program__set_expected_attach_type(bpf_program *prog, int type)
    const char *bpf_map__name(const bpf_map *map)
    int bpf_map__fd(const bpf_map *map)
    int bpf_map__type(const bpf_map *map)
    uint32_t bpf_map__key_size(const bpf_map *map)
    uint32_t bpf_map__value_size(const bpf_map *map)
    uint32_t bpf_map__max_entries(const bpf_map *map)
    bint bpf_map__is_internal(const bpf_map *map)
    int bpf_map__set_max_entries(bpf_map *map, uint32_t entries)
    int libbpf_num_possible_cpus()
    ctypedef int (*libbpf_print_fn_t)(libbpf_print_level level, const char *form, va_list args) noexcept
    void *libbpf_set_print(libbpf_print_fn_t fn)
    ring_buffer *ring_buffer__new(int fd, ring_buffer_sample_fn cb, void *ctx, const void *opts)
    int ring_buffer__consume(ring_buffer *rb)
    void ring_buffer__free(ring_buffer *rb)

cdef extern from "<bpf/bpf.h>" nogil:
    cdef struct bpf_map_batch_opts:
        size_t sz
        uint64_t elem_flags
        uint64_t flags
    cdef struct bpf_test_run_opts:
        size_t sz
        const void *data_in
        void *data_out
        uint32_t data_size_in
        uint32_t data_size_out
        const void *ctx_in
        void *ctx_out
        uint32_t ctx_size_in
        uint32_t ctx_size_out
        uint32_t retval
        int repeat
        uint32_t duration
        uint32_t flags

    int bpf_map_lookup_elem(int fd, const void *key, void *value)
    int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)
    int bpf_map_delete_elem(int fd, const void *key)
    int bpf_map_lookup_and_delete_elem(int fd, const void *key, void *value)
    int bpf_map_lookup_batch(int fd, void *in_batch, void *out_batch, void *keys, void *values, uint32_t *count, const bpf_map_batch_opts *opts)
    int bpf_obj_pin(int fd, const char *path)
    int bpf_obj_get(const char *path)
    int bpf_prog_test_run_opts(int fd, bpf_test_run_opts *opts)
    int bpf_enable_stats(int type)

cdef extern from "<linux/bpf.h>" nogil:
    int BPF_NOEXIST
    int BPF_MAP_TYPE_ARRAY
    int BPF_MAP_TYPE_PERCPU_ARRAY
    int BPF_MAP_TYPE_LRU_HASH
    int BPF_MAP_TYPE_RINGBUF
    int BPF_PROG_TYPE_SCHED_CLS

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    long syscall(long number, ...)

cdef extern from "<sys/syscall.h>" nogil:
    long SYS_bpf
