/* The tables: what the agent compiles (a balancer's whole knowledge) and what the two ends of a connection remember.
 *
 * A table is named once, in WHARFINGER_TABLES; a host gives each name a `find_NAME(key)` that answers a pointer to the live value or
 * 0. Only the two tables of connections are ever written by a packet (put_/drop_), and only at the ends: the balancer has none.
 * Tables the agent writes are changed by replacing one whole value: a packet sees the old or the new, nothing between.
 * flow_key never changes, and flow only grows at its end: a release takes over the other's connections (kernel.py). */
#ifndef WHARFINGER_TABLES_H
#define WHARFINGER_TABLES_H

#include "types.h"

/* TABLE(name, key type, value type, capacity, kind): SPARSE tables allocate as they fill; LIVE ones are allocated beforehand, for packets
 * fill them; BOUNDED ones forget the least recently used. */
#define WHARFINGER_TABLES(TABLE) \
	TABLE(interfaces, u32, struct interface, 8192, SPARSE) \
	TABLE(pods, struct addr, struct pod, 4096, SPARSE) \
	TABLE(addresses, struct address_key, struct address, 16384, SPARSE) \
	TABLE(pages, u32, struct page, 65536, SPARSE) \
	TABLE(sets, u32, struct redirect_set, 65536, SPARSE) \
	TABLE(servers, u32, struct server, 131072, SPARSE) \
	TABLE(server_ports, struct server_port_key, struct server_port, 524288, SPARSE) \
	TABLE(flows, struct flow_key, struct flow, 262144, LIVE) \
	TABLE(half_open, struct flow_key, struct flow, 65536, BOUNDED)

/* DIRECT: packets may be sent to it past the stack: it bears wharf_from_net, or leads to this node's pods alone, and nobody's queueing or
 * filters are passed by. STRICT: what comes in by it must have a source that a route by it leads to (rp_filter = 1). */
enum interface_bit { INTERFACE_DIRECT = 1, INTERFACE_STRICT = 2 };
/* An interface of the node, by its index; one that is not listed has no bits. */
struct interface {
	u32 bits;                 /* enum interface_bit */
};
ASSERT_SIZE(struct interface, 4);

/* A pod whose connections in one direction a NetworkPolicy selects may be neither client nor server of ours. */
enum pod_role { POD_CLIENT = 1, POD_SERVER = 2, POD_INGRESS_SELECTED = 4, POD_EGRESS_SELECTED = 8 };
/* An address of a pod on this node whose interface bears our programs. */
struct pod {
	u32 ifindex;              /* the host's side of the pod's interface */
	u32 roles;                /* enum pod_role */
	__s32 netns;              /* its network namespace, as the node's numbers it; -1: not known, so its stack is not asked */
};
ASSERT_SIZE(struct pod, 12);

struct address_key {
	struct addr addr;
	u32 proto;
};
ASSERT_SIZE(struct address_key, 20);

#define PAGE_PORTS 256
/* A virtual address's 65,536 ports, as 256 pages of 256; page 0 means: none of its ports is declared. */
struct address {
	u32 page[65536 / PAGE_PORTS];
};
ASSERT_SIZE(struct address, 1024);

enum port_kind { PORT_UNKNOWN = 0, PORT_SERVER = 1, PORT_SET = 2 };
#define PORT_INDEX_BITS 28
/* A port: its kind above PORT_INDEX_BITS, the server's or the set's index below. */
struct page {
	u32 port[PAGE_PORTS];
};
ASSERT_SIZE(struct page, 1024);

enum policy { POLICY_HASH = 0, POLICY_RANDOM = 1, POLICY_ROUND_ROBIN = 2 };
#define SET_SLOTS 4093        /* prime, as Maglev's table asks */
/* A redirect port's servers in the order that its policy draws from: a Maglev table for POLICY_HASH, the members repeated by weight else. */
struct redirect_set {
	u32 scope;
	u32 policy;               /* enum policy */
	u32 size;                 /* slots in use; 0: no server is ready */
	u32 slot[SET_SLOTS];      /* server indexes */
};
ASSERT_SIZE(struct redirect_set, 12 + 4 * SET_SLOTS);

enum server_state { SERVER_READY = 1, SERVER_DRAINING = 2 };
/* A server as one pool's member: an address may serve in several. */
struct server {
	struct addr addr;
	u32 scope;
	u32 state;                /* enum server_state */
};
ASSERT_SIZE(struct server, 24);

struct server_port_key {
	struct addr addr;         /* the server's own */
	u32 scope;                /* of a redirect port; 0 for a service port, which is unique per server address */
	be16 port;
	u8 proto, pad;
};
ASSERT_SIZE(struct server_port_key, 24);

#define SERVICE_PORTS_MAX 16
/* What a port of a server stands for: where its stack listens and, of a redirect port, the service ports it may name. */
struct server_port {
	u32 scope;
	be16 target;
	u16 count;                /* service ports below; 0: this is a service port itself */
	be16 service[SERVICE_PORTS_MAX];
};
ASSERT_SIZE(struct server_port, 40);

enum flow_side {
	SIDE_CLIENT_STACK = 1,    /* local: the pod; peer: virtual address:X, as the client's stack sees it */
	SIDE_CLIENT_WIRE = 2,     /* local: the pod; peer: server:X or server:Y, as the wire has it */
	SIDE_SERVER_STACK = 3,    /* local: the server at its target port; peer: the client, or its substitute port */
	SIDE_SERVER_WIRE = 4,     /* local: the server at the port that the wire has; peer: the client, whose port has a substitute */
};
struct flow_key {
	struct addr local, peer;
	be16 local_port, peer_port;
	u8 proto, side;           /* enum flow_side */
	u16 pad;
};
ASSERT_SIZE(struct flow_key, 40);

/* Of records without an entry, UNENTERED: the stack has the connection; STRAY: nobody knows whose packet it was that made it. */
enum flow_state { FLOW_OPENING = 1, FLOW_REDIRECTED = 2, FLOW_ESTABLISHED = 3, FLOW_CLOSING = 4, FLOW_UNENTERED = 5, FLOW_STRAY = 6 };
/* What ended, as the pod's own stack says it; above END_SURE what the wire says and the stack has not confirmed. */
enum flow_end { END_LOCAL_FIN = 1, END_PEER_FIN = 2, END_RESET = 4, END_SURE = 7, END_FIN_SAID = 8, END_RESET_SAID = 16 };
struct flow {
	union {
		struct addr other;        /* CLIENT_STACK: the server; CLIENT_WIRE: the virtual address */
		struct {                  /* SERVER_STACK, SERVER_WIRE */
			be16 client_port; /* STACK: the client's on the wire, 0: as in the key; WIRE: its substitute in the stack */
			u16 pad;
			u32 server_isn;   /* STACK, once the SYN+ACK passed */
		};
	};
	u32 scope;
	u32 isn;                  /* the client's initial sequence number */
	u32 peer_end;             /* with END_FIN_SAID: what acknowledges the peer's FIN */
	be16 redirect_port;       /* X; SERVER_WIRE: the target port */
	be16 service_port;        /* Y; 0 until it is known */
	u8 state;                 /* enum flow_state */
	u8 tries;                 /* at the client: SYNs repeated; at the server: SYN+ACKs seen, 255 at most */
	u8 aware;                 /* the SYN bore REDIRECT */
	u8 reason;                /* enum reason, by which the connection came to be */
	u32 ends;                 /* bits of enum flow_end, set atomically: both directions end at once on two processors */
	u64 started_ns, established_ns, seen_ns; /* kernel's monotonic clock */
};
ASSERT_SIZE(struct flow, 64);

#endif
