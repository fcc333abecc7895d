# The C core as dataplane/bpf's headers declare it: the one way by which Cython sees them.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "host_engine.h" nogil:
    cdef struct addr:
        uint8_t byte[16]
    cdef struct interface:
        uint32_t bits
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
        uint16_t target, count
        uint16_t service[16]
    cdef struct flow_key:
        addr local, peer
        uint16_t local_port, peer_port
        uint8_t proto, side
        uint16_t pad
    cdef struct flow:
        addr other
        uint32_t scope, isn, peer_end, server_isn
        uint16_t redirect_port, service_port
        uint8_t state, tries, aware, reason
        uint32_t ends
        uint16_t client_port
        uint64_t started_ns, established_ns, seen_ns
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
    cdef struct engine_node:
        engine_node *next
        uint8_t *bytes
    cdef struct engine_table:
        uint32_t key_size, value_size, capacity, count, buckets
        engine_node **bucket
    cdef struct engine:
        engine_table *table
        engine_table held
        uint64_t now_ns
        uint32_t random, packet_len
        uint8_t *packet
        work work

    uint16_t to_be16(uint16_t n)
    uint16_t from_be16(uint16_t n)
    int SIDE_CLIENT_WIRE, FLOW_CLOSING
    int POD_CLIENT, POD_SERVER, POD_INGRESS_SELECTED, POD_EGRESS_SELECTED
    int POLICY_HASH, POLICY_RANDOM, POLICY_ROUND_ROBIN, SERVER_READY, SERVER_DRAINING, SIDE_CLIENT_STACK
    int SIDE_SERVER_STACK, SIDE_SERVER_WIRE, FLOW_OPENING, FLOW_REDIRECTED, FLOW_ESTABLISHED, FLOW_UNENTERED, FLOW_STRAY
    int EVENT_BALANCED, EVENT_CLOSED, ROLE_CLIENT, ROLE_BALANCER, ROLE_SERVER
    int END_LOCAL_FIN, END_PEER_FIN, END_RESET, END_RESET_SAID, COUNTER_REASONS, SETTING_TRACED, SETTING_TRACE_KEY_LOW, SETTING_TRACE_KEY_HIGH, SETTING_HELD_UNTIL, SETTING_GENERATION, SETTING_LEFT_TO_STACK
    int INTERFACE_DIRECT, INTERFACE_STRICT
    uint64_t TRACES_ALL
    uint32_t GATE_ADDRESS, GATE_PORT
    int PROTO_TCP, SET_SLOTS, SERVICE_PORTS_MAX, PAGE_PORTS, PORT_INDEX_BITS, PORT_SERVER, PORT_SET, REASON_COUNT, TABLE_COUNT, HOOK_COUNT
    const uint8_t *engine_outcome
    const char **engine_reason_name
    const char **engine_reason_words
    const char **engine_table_name

    engine *engine_new()
    void engine_free(engine *e)
    int engine_put(engine_table *t, const void *key, const void *value)
    void *engine_find(engine_table *t, const void *key)
    int engine_drop(engine_table *t, const void *key)
    int engine_run(engine *e, int hook, uint32_t ifindex)
