# The C core as dataplane/bpf's headers declare it: the one way by which Cython sees them.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "host_engine.h" nogil:
    cdef struct addr:
        uint8_t byte[16]
    cdef struct interface:
        uint32_t bits, incoming
    cdef struct pod:
        uint32_t ifindex, roles
        int32_t netns
    cdef struct address_key:
        addr addr
        uint32_t proto
    cdef struct address:
        uint32_t page[256]
    cdef struct page:
        uint32_t port[256]
    cdef struct redirect_set:
        uint32_t scope, policy, size
        uint32_t slot[4093]
    cdef struct server:
        addr addr
        uint32_t scope, state
    cdef struct server_port_key:
        addr addr
        uint32_t scope
        uint16_t port
        uint8_t proto, pad
    cdef struct server_port:
        uint32_t scope
        uint16_t target
        uint8_t count, moves
        uint16_t service[16]
    cdef struct flow_key:
        uint32_t ifindex, local, peer
        uint16_t local_port, peer_port
    cdef union life:
        uint8_t state, marks, tries, reason
        uint32_t isn
        uint64_t whole
    cdef union way:
        uint32_t ifindex, gateway
        uint64_t whole
    cdef struct flow:
        life life
        uint32_t scope, peer_end, server_isn
        uint16_t claimed
        uint32_t server
        uint16_t client_port, redirect_port, wire_port, mtu
        way way
        uint32_t seen, established_us
        uint64_t started_ns
    cdef struct wire:
        life life
        uint32_t ifindex, peer
        uint16_t local_port, peer_port, mtu
        way way
        uint32_t seen, checked
        uint64_t started_ns
    cdef struct event:
        uint64_t time_ns, started_ns, established_ns
        addr client
        addr virtual
        addr server
        uint32_t scope, isn, ifindex
        uint16_t client_port, redirect_port, service_port, target_port
        uint8_t kind, role, reason, ends, proto, aware
    cdef struct option:
        uint8_t flags, len
        uint16_t port
        uint32_t scope, origin
    cdef struct packet:
        option option
        uint8_t malformed_option
    cdef struct work:
        event event
        packet packet
    cdef struct numbers:
        uint32_t expects, unacknowledged, next
    cdef struct rest:
        numbers numbers
        uint32_t written, value, echo
        uint16_t window
        uint8_t timestamps
    cdef struct held:
        rest rest
        uint32_t seen
    cdef struct engine_node:
        engine_node *next
        uint8_t *bytes
    cdef struct engine_table:
        uint32_t key_size, value_size, capacity, count, buckets
        engine_node **bucket
    cdef struct engine:
        engine_table *table
        engine_table sockets
        uint64_t *setting
        uint32_t whole_chain
        uint64_t now_ns
        uint32_t random, packet_len
        uint8_t *packet
        work work

    uint16_t to_be16(uint16_t n)
    uint16_t from_be16(uint16_t n)
    int POD_CLIENT, POD_SERVER, POD_INGRESS_SELECTED, POD_EGRESS_SELECTED
    int BALANCE_HASH, BALANCE_RANDOM, BALANCE_ROUND_ROBIN, SERVER_READY, SERVER_DRAINING
    int CLIENT_CLAIMED, CLIENT_OPENING, CLIENT_UNAWARE, CLIENT_JOINING, CLIENT_ESTABLISHED, CLIENT_CLOSED
    int SERVER_OPENING, SERVER_ESTABLISHED, SERVER_CLOSED, SERVER_FOUND, SERVER_STRAY
    int LOCAL_FIN, PEER_FIN, RESET, FIN_SEEN, RESET_SEEN, AWARE, BY_STACK, CLOSING
    int MOVE_NEVER, MOVE_CLOSE, ASKED, ASKED_NOBODY, ASKED_BUSY, ASKED_FAILED
    int SOCKET_PART, SOCKET_WHOLE
    int EVENT_BALANCED, EVENT_CLOSED, ROLE_CLIENT, ROLE_BALANCER, ROLE_SERVER
    int COUNTER_REASONS, SETTING_TRACED, SETTING_TRACE_KEY_LOW, SETTING_TRACE_KEY_HIGH, SETTING_HELD_UNTIL, SETTING_MADE
    int SETTING_GENERATION, SETTING_LEFT_TO_STACK, SETTING_FULL, SETTING_COUNT
    int INTERFACE_DIRECT, INTERFACE_STRICT, INTERFACE_PODS
    uint64_t TRACES_ALL
    uint32_t GATE_ADDRESS, GATE_PORT
    int PROTO_TCP, SET_SLOTS, SERVICE_PORTS_MAX, PAGE_PORTS, PORT_INDEX_BITS, PORT_SERVER, PORT_SET, REASON_COUNT, TABLE_COUNT
    const uint8_t *engine_outcome
    const char **engine_reason_name
    const char **engine_reason_words
    const char **engine_table_name

    void set_key(flow_key *k, uint32_t ifindex, uint32_t local, uint16_t local_port, uint32_t peer, uint16_t peer_port)
    bint is_client_state(uint8_t state)
    bint is_over(uint8_t marks)
    void wire_key_of(flow_key *out, const flow_key *k, const flow *f)
    void flow_key_of(flow_key *out, const flow_key *k, const wire *w)
    uint32_t stamp_of(uint64_t time_ns, uint64_t generation)
    uint64_t stamp_age_ns(uint32_t stamp, uint64_t now_ns)

    engine *engine_new()
    void engine_free(engine *e)
    int engine_put(engine_table *t, const void *key, const void *value)
    void *engine_find(engine_table *t, const void *key)
    int engine_drop(engine_table *t, const void *key)
    int engine_run(engine *e, int hook, uint32_t ifindex)
